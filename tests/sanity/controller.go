package sanity

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Controller plays the half of the plugin that speaks to AWS: its volumes are files in a store, and those
// attached to the node have a second name in the directory that the agent was started with.
type Controller struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedIdentityServer

	store, devices string

	mutex sync.Mutex
	names map[string]string // of the volumes that are there: ID by name
}

// Server is a Controller that is being served on a socket.
type Server struct {
	Address string
	server  *grpc.Server
}

// ServeController serves a new controller on a socket in the store.
func ServeController(store, devices string) (*Server, error) {
	listener, err := net.Listen("unix", filepath.Join(store, "controller.sock"))
	if err != nil {
		return nil, err
	}
	controller := &Controller{store: store, devices: devices, names: map[string]string{}}
	server := grpc.NewServer()
	csi.RegisterControllerServer(server, controller)
	csi.RegisterIdentityServer(server, controller)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	return &Server{Address: listener.Addr().String(), server: server}, nil
}

// Stop ends the server and removes its socket.
func (s *Server) Stop() { s.server.Stop() }

func (c *Controller) GetPluginInfo(
	context.Context, *csi.GetPluginInfoRequest,
) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "controller.sanity.test", VendorVersion: "1"}, nil
}

func (c *Controller) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{controllerService}}, nil
}

func (c *Controller) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (c *Controller) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, capability := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{
				Rpc: &csi.ControllerServiceCapability_RPC{Type: capability},
			},
		})
	}
	return response, nil
}

// CreateVolume makes a volume of zeros, unless one of this name is there.
func (c *Controller) CreateVolume(
	_ context.Context, request *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	size := request.GetCapacityRange().GetRequiredBytes()
	id, isThere := c.names[request.GetName()]
	if !isThere {
		id = newVolumeID()
		if err := makeFile(c.stored(id), size); err != nil {
			return nil, err
		}
		c.names[request.GetName()] = id
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, CapacityBytes: size}}, nil
}

func (c *Controller) DeleteVolume(
	_ context.Context, request *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for name, id := range c.names {
		if id == request.GetVolumeId() {
			delete(c.names, name)
		}
	}
	return &csi.DeleteVolumeResponse{}, removeIfThere(c.stored(request.GetVolumeId()))
}

// ControllerPublishVolume attaches a volume. The device name is what somebody asked EC2 for: no device has it.
func (c *Controller) ControllerPublishVolume(
	_ context.Context, request *csi.ControllerPublishVolumeRequest,
) (*csi.ControllerPublishVolumeResponse, error) {
	err := os.Link(c.stored(request.GetVolumeId()), c.attached(request.GetVolumeId()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", request.GetVolumeId())
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{
		PublishContext: map[string]string{"devicePath": "/dev/xvdaa"},
	}, nil
}

func (c *Controller) ControllerUnpublishVolume(
	_ context.Context, request *csi.ControllerUnpublishVolumeRequest,
) (*csi.ControllerUnpublishVolumeResponse, error) {
	return &csi.ControllerUnpublishVolumeResponse{}, removeIfThere(c.attached(request.GetVolumeId()))
}

func (c *Controller) ControllerExpandVolume(
	_ context.Context, request *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	size := request.GetCapacityRange().GetRequiredBytes()
	if err := os.Truncate(c.stored(request.GetVolumeId()), size); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size, NodeExpansionRequired: true}, nil
}

func (c *Controller) stored(id string) string {
	return filepath.Join(c.store, id)
}

func (c *Controller) attached(id string) string {
	return filepath.Join(c.devices, id+".img")
}

func makeFile(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
