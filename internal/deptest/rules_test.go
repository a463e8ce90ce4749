package deptest

import "strings"

// module is the import path that the rules below are relative to.
const module = "github.com/idloc/idloc"

// rule says which packages of the module pkg may import, in non-test files.
// Test-only packages are in nobody's list.
type rule struct {
	pkg string // one package, or with /... a tree
	may string // packages or trees, separated by spaces
}

// stair lists every package, lowest first.
var stair = []rule{
	// Leaves.
	{"internal/peerid", ""},
	{"internal/account", ""},
	{"internal/event", "internal/peerid"},
	{"internal/wire", "internal/peerid"},
	{"internal/state", "internal/peerid"},
	{"internal/wallclock", ""},
	{"internal/pause", ""},
	{"internal/lag", ""},
	{"internal/logpace", ""},
	{"internal/nat64", ""},
	{"internal/socket", "internal/logpace internal/nat64"},
	{"internal/carrier", ""},
	{"internal/netconn", ""},
	{"internal/null", "internal/netconn"},
	{"internal/inner", ""},
	{"lsi", "internal/peerid"},

	// The stair.
	{"internal/pipe/handshake", "internal/wire internal/peerid"},
	{"internal/pipe/congestion", ""},
	{"internal/pipe/repair", "internal/pipe/congestion"},
	{"internal/pipe", "internal/account internal/pipe/handshake internal/pipe/congestion internal/pipe/repair internal/logpace internal/wire internal/wallclock internal/peerid internal/event"},
	{"shim/pep", "internal/inner"},
	{"shim", "shim/pep internal/inner internal/logpace lsi internal/pipe internal/wire internal/peerid internal/event"},
	{"netstack", "internal/inner internal/logpace shim lsi internal/netconn internal/peerid internal/event"},
	{"netstack/tun", "internal/inner internal/logpace netstack shim internal/netconn"},

	// Beside the stair.
	{"overlay/membership/canon", ""},
	{"overlay/membership", "internal/account overlay/membership/canon internal/wire internal/peerid"},
	{"overlay/naming", "internal/account overlay/membership/... internal/peerid"},
	{"overlay/grants", "overlay/membership"},
	{"overlay/nat", "internal/logpace internal/socket"},
	{"overlay/ice/stun", ""},
	{"overlay/ice/tcp", "overlay/ice/stun internal/logpace internal/null internal/wire internal/peerid"},
	{"overlay/ice", "overlay/ice/stun overlay/nat internal/carrier internal/socket internal/wire"},
	{"overlay/quictransport", "internal/socket"},
	{"overlay/hearsay", ""},
	{"overlay/p2p", "internal/carrier internal/peerid"},
	{"overlay/field", ""},
	{"overlay/admission", "internal/account overlay/field overlay/naming overlay/membership internal/logpace internal/state internal/wallclock internal/peerid"},
	{"overlay/pki", "overlay/admission overlay/field overlay/membership internal/logpace internal/state internal/wallclock internal/peerid"},
	{"overlay/mesh", "internal/account overlay/field overlay/hearsay overlay/membership overlay/naming overlay/nat overlay/p2p overlay/quictransport internal/carrier internal/logpace internal/pause internal/socket internal/state internal/peerid"},
	{"overlay/carry", "overlay/nat overlay/p2p internal/carrier internal/pipe internal/socket internal/peerid"},
	{"overlay/directory", "internal/account overlay/membership overlay/naming overlay/p2p internal/pause internal/state internal/peerid internal/event"},
	{"overlay/offers", "internal/account overlay/membership overlay/p2p internal/lag internal/pause internal/logpace internal/pipe internal/wire internal/peerid internal/event"},
	{"overlay/nullflow", "internal/account overlay/offers overlay/ice overlay/ice/tcp overlay/p2p internal/pause internal/logpace internal/null internal/pipe internal/wire internal/peerid internal/event"},
	{"overlay/establish", "internal/account overlay/offers overlay/p2p overlay/ice internal/pause internal/logpace internal/pipe internal/wire internal/peerid internal/event"},
	{"overlay/roaming", "internal/pause internal/pipe"},
	{"overlay/upkeep", "overlay/admission overlay/directory overlay/membership overlay/mesh internal/pipe internal/peerid internal/event"},
	{"overlay/entry", "overlay/membership overlay/p2p"},
	{"overlay/lan", "internal/peerid"},
	{"overlay/adapter", "overlay/admission overlay/carry overlay/directory overlay/establish overlay/ice overlay/lan overlay/membership overlay/mesh overlay/naming overlay/nat overlay/offers overlay/p2p overlay/pki internal/pipe internal/socket internal/peerid internal/wire"},
	{"overlay", "internal/account overlay/... internal/carrier internal/lag internal/pause internal/logpace internal/null internal/socket internal/pipe internal/wire internal/state internal/wallclock internal/peerid internal/event"},
	{"resolver", "internal/logpace internal/peerid internal/event"},

	// The composition root, and who stands on its public API.
	{"idloc", "internal/account internal/carrier internal/logpace internal/nat64 internal/pause netstack/... shim lsi internal/netconn internal/null overlay/... resolver internal/pipe internal/socket internal/wire internal/state internal/wallclock internal/peerid internal/event"},
	{"idloc/idloctest", "idloc"},
	{"examples/...", "idloc/... resolver examples/..."}, // resolver: zone-file lines, a DNS server's sockets

	// For tests only.
	{"internal/leaktest", ""},
	{"internal/race", ""},
	{"internal/yardstick", "internal/race"},
	{"internal/difftest", ""},
	{"internal/pipe/second", ""},
	{"internal/pipetest", "internal/pipe internal/peerid"},
	{"internal/sockettest", "internal/socket"},
	{"shim/shimtest", "shim lsi internal/pipe internal/wire internal/peerid internal/event"},
	{"internal/deptest", ""},
	{"internal/soak", "idloc internal/wallclock"},
	{"internal/footprint", ""},
	{"internal/kernellab", ""},
	{"internal/mutate", ""},
	{"internal/typecheck", ""},
}

// foreign says which packages may import what is not ours. What is not listed
// here is free for all.
var foreign = []struct {
	path string // with everything below it
	by   string
}{
	// The shim shares the packet buffer, which saves a copy, and nothing else.
	// netstack/tun gets such buffers from it.
	{"gvisor.dev/gvisor/pkg/buffer", "netstack/... shim shim/pep"},
	{"gvisor.dev/gvisor/pkg/tcpip/checksum", "netstack/... shim"},
	{"gvisor.dev/gvisor/pkg/tcpip/header", "netstack shim"},
	{"gvisor.dev/gvisor", "netstack"},

	{"github.com/libp2p", "overlay/..."},
	{"github.com/multiformats/go-multiaddr", "overlay/..."},
	{"github.com/multiformats/go-multistream", "overlay/..."},
	{"github.com/quic-go", "overlay/..."},
	{"github.com/ipfs", "overlay/..."},

	// transport.Net is in Config of the packages that a user or a test hands
	// a simulated network.
	{"github.com/pion/transport", "internal/socket internal/sockettest overlay/... idloc idloc/idloctest internal/soak"},
	{"github.com/pion/logging", "overlay/ice overlay/nat idloc/idloctest"},
	{"github.com/pion/stun", "overlay/ice/stun"},
	{"github.com/pion/ice", "overlay/ice"},
	{"github.com/pion/turn", "overlay/nat"},
	{"github.com/pion", "overlay/..."},

	// Seeing inside is the composition root's business; libp2p wants a
	// registry for its own metrics.
	{"github.com/prometheus", "overlay overlay/mesh idloc"},
	{"go.opentelemetry.io", "idloc"},

	{"github.com/miekg/dns", "resolver"},
	{"github.com/coder/websocket", "internal/carrier"},

	{"github.com/flynn/noise", "internal/pipe/handshake"},
	{"golang.zx2c4.com/wireguard/tun", "netstack/tun"},
	{"golang.zx2c4.com/wireguard", "internal/pipe"},
	{"filippo.io/edwards25519", "internal/pipe/handshake overlay/membership"},
}

// in reports whether pkg is one of the packages or trees in list.
func in(pkg, list string) bool {
	for _, l := range strings.Fields(list) {
		if tree, ok := strings.CutSuffix(l, "/..."); ok && under(pkg, tree) || pkg == l {
			return true
		}
	}
	return false
}

// under reports whether path is tree or below it.
func under(path, tree string) bool {
	return path == tree || strings.HasPrefix(path, tree+"/")
}
