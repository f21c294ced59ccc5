// Package sanity runs the Kubernetes project's conformance suite for storage plugins (csi-sanity) against a
// running agent, with volumes that have a filesystem and with raw ones.
//
// The agent serves the node's half of a plugin. The other half, which makes volumes and attaches them to the
// node, is the agent's controller, and then the whole suite is run; or it is played by this package's Controller,
// and then only what the node answers is. The tests beside start what is needed, and this test.
package sanity

import (
	"crypto/rand"
	"encoding/hex"
	"flag"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

var (
	kubeletRoot = flag.String("kubelet-root", "", "the `directory` that the agent takes for kubelet's")
	driver      = flag.String("driver", "", "the `name` the agent has as a plugin")
	devices     = flag.String("devices", "", "the `directory` whose vol-….img files are the attached volumes")
	store       = flag.String("store", "", "a `directory` of the same filesystem, for volumes that are not attached")
	controller  = flag.String("controller", "", "the `socket` of the agent's controller; empty: it is played")
	zone        = flag.String("zone", "", "the availability `zone` of the node, where the controller is the agent's")
	report      = flag.String("report", "", "the `file` to write Ginkgo's report to, as JSON")
)

const (
	volumeBytes   = 64 << 20
	expandedBytes = 96 << 20
	gib           = 1 << 30          // volumes of EBS have no less
	longest       = 20 * time.Minute // it stops what hangs, not what is slow
)

func TestNode(t *testing.T) {
	if *kubeletRoot == "" || *controller != "" {
		t.Skip("needs a running agent: pytest tests/sanity starts one")
	}
	player, err := ServeController(*store, *devices)
	if err != nil {
		t.Fatal(err)
	}
	defer player.Stop()

	run(t, player.Address, volumeBytes, expandedBytes, "Identity Service", "Node Service")
}

func TestPlugin(t *testing.T) {
	if *controller == "" {
		t.Skip("needs a running agent and controller: pytest tests/sanity starts them")
	}
	run(t, *controller, gib, 2*gib)
}

// run runs the suite against the node and the controller at an address, or of it what focus names.
func run(t *testing.T, address string, size, expanded int64, focus ...string) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	for _, accessType := range []string{"mount", "block"} {
		config := configure(accessType, address)
		config.TestVolumeSize, config.TestVolumeExpandSize = size, expanded
		ginkgo.Describe(accessType, func() { t.Cleanup(sanity.GinkgoTest(&config).Finalize) })
	}
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = focus
	suite.Timeout = longest
	reporter.JSONReport = *report
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
}

func configure(accessType, controller string) sanity.TestConfig {
	places := NewPlaces(*kubeletRoot, *driver, accessType)
	config := sanity.NewTestConfig()
	config.Address = places.Socket()
	config.DialOptions = append(config.DialOptions, withController)
	config.ControllerAddress = controller
	config.ControllerDialOptions = append(config.ControllerDialOptions, withPlace)
	config.TestVolumeAccessType = accessType
	config.IDGen = volumeIDs{}
	config.CreateStagingDir = places.MakeStaging
	config.RemoveStagingPath = places.Remove
	config.CreateTargetDir = places.MakeTargetParent
	config.RemoveTargetPath = places.Remove
	config.CheckPath = places.Check
	return config
}

// volumeIDs makes up names of volumes, as EC2 gives them, and of nodes.
type volumeIDs struct{ sanity.DefaultIDGenerator }

func (volumeIDs) GenerateUniqueValidVolumeID() string { return newVolumeID() }

func (volumeIDs) GenerateInvalidVolumeID() string { return "vol-none" }

func newVolumeID() string {
	random := make([]byte, 9)
	_, _ = rand.Read(random) // never fails
	return "vol-" + hex.EncodeToString(random)[:17]
}
