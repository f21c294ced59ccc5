package sanity

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

var controllerService = &csi.PluginCapability{
	Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	},
}

// withController has the agent say what a whole plugin would: that it has a controller. csi-sanity asks the
// node's half whether there is one, and without skips all that needs a volume.
var withController = grpc.WithUnaryInterceptor(func(
	ctx context.Context, method string, request, response any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	err := invoke(ctx, method, request, response, connection, options...)
	if said, isCapabilities := response.(*csi.GetPluginCapabilitiesResponse); isCapabilities && err == nil {
		said.Capabilities = append(said.Capabilities, controllerService)
	}
	return err
})

// withPlace asks for volumes in the node's zone wherever the suite names none, as the provisioner does for a
// claim whose pod has a node already. AWS makes a volume in one zone, and no other can use it.
var withPlace = grpc.WithUnaryInterceptor(func(
	ctx context.Context, method string, request, response any,
	connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	asked, isCreate := request.(*csi.CreateVolumeRequest)
	if isCreate && asked.GetAccessibilityRequirements() == nil && *zone != "" {
		place := []*csi.Topology{{Segments: map[string]string{"topology.kubernetes.io/zone": *zone}}}
		asked.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: place, Preferred: place}
	}
	return invoke(ctx, method, request, response, connection, options...)
})
