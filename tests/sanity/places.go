package sanity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
)

// Places are the directories that kubelet makes for one volume and one pod, below its root.
type Places struct {
	root, driver, accessType string
}

// NewPlaces returns the places for volumes of one access type, "mount" or "block".
func NewPlaces(root, driver, accessType string) Places {
	return Places{root, driver, accessType}
}

// Socket is where kubelet calls the plugin.
func (p Places) Socket() string {
	return filepath.Join(p.root, "plugins", p.driver, "csi.sock")
}

// MakeStaging makes a directory to stage a volume at, a new one each time.
func (p Places) MakeStaging(string) (string, error) {
	plugins := filepath.Join(p.root, "plugins", "kubernetes.io", "csi")
	if p.accessType == "block" {
		return makeDirectory(plugins, "volumeDevices", "staging", "pv-"+rand.Text())
	}
	handle := sha256.Sum256([]byte(rand.Text()))
	return makeDirectory(plugins, p.driver, hex.EncodeToString(handle[:]), "globalmount")
}

// MakeTargetParent makes a directory in which a volume is to be published, a new one each time.
func (p Places) MakeTargetParent(string) (string, error) {
	if p.accessType == "block" {
		return makeDirectory(p.root, "plugins", "kubernetes.io", "csi", "volumeDevices", "publish", "pv-"+rand.Text())
	}
	return makeDirectory(p.root, "pods", rand.Text(), "volumes", "kubernetes.io~csi", "pv-sanity")
}

// Remove removes what MakeStaging or MakeTargetParent made: it must be empty, and nothing mounted on it.
func (Places) Remove(path string) error {
	return os.Remove(path)
}

// Check tells what is at a path, not following links.
func (Places) Check(path string) (sanity.PathKind, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sanity.PathIsNotFound, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return sanity.PathIsDir, nil
	case info.Mode().IsRegular():
		return sanity.PathIsFile, nil
	default:
		return sanity.PathIsOther, nil
	}
}

func makeDirectory(elements ...string) (string, error) {
	path := filepath.Join(elements...)
	return path, os.MkdirAll(path, 0o750)
}
