// Package sanity runs the Kubernetes project's conformance suite for storage plugins (csi-sanity) against a
// running agent: its Identity and Node services, with volumes that have a filesystem and with raw ones.
//
// The agent serves the node's half of a plugin. The other half, which makes volumes and attaches them to the
// node, is played by this package's Controller. tests/sanity/test_sanity.py starts the agent and this test.
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
	report      = flag.String("report", "", "the `file` to write Ginkgo's report to, as JSON")
)

const (
	volumeBytes   = 64 << 20
	expandedBytes = 96 << 20
	longest       = 10 * time.Minute
)

func TestNode(t *testing.T) {
	if *kubeletRoot == "" {
		t.Skip("needs a running agent: pytest tests/sanity starts one")
	}
	controller, err := ServeController(*store, *devices)
	if err != nil {
		t.Fatal(err)
	}
	defer controller.Stop()

	gomega.RegisterFailHandler(ginkgo.Fail)
	for _, accessType := range []string{"mount", "block"} {
		config := configure(accessType, controller)
		ginkgo.Describe(accessType, func() { t.Cleanup(sanity.GinkgoTest(&config).Finalize) })
	}
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = []string{"Identity Service", "Node Service"} // the controller is not what is tested
	suite.Timeout = longest
	reporter.JSONReport = *report
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
}

func configure(accessType string, controller *Server) sanity.TestConfig {
	places := NewPlaces(*kubeletRoot, *driver, accessType)
	config := sanity.NewTestConfig()
	config.Address = places.Socket()
	config.DialOptions = append(config.DialOptions, withController)
	config.ControllerAddress = controller.Address
	config.TestVolumeAccessType = accessType
	config.TestVolumeSize = volumeBytes
	config.TestVolumeExpandSize = expandedBytes
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
