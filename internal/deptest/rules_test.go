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
	{"internal/event", "internal/peerid"},
	{"internal/wire", "internal/peerid"},
	{"internal/state", "internal/peerid"},
	{"internal/socket", ""},
	{"internal/null", ""},
	{"lsi", "internal/peerid"},

	// The stair.
	{"internal/pipe", "internal/wire internal/peerid internal/event"},
	{"shim", "lsi internal/pipe internal/wire internal/peerid internal/event"},
	{"netstack", "shim lsi internal/peerid internal/event"},
	{"netstack/tun", "netstack shim"},

	// Beside the stair.
	{"overlay/membership/canon", ""},
	{"overlay/membership", "overlay/membership/canon internal/peerid"},
	{"overlay/naming", "overlay/membership/... internal/peerid"},
	{"overlay/icetcp", "internal/null internal/wire internal/peerid"},
	{"overlay", "overlay/... internal/null internal/socket internal/pipe internal/wire internal/state internal/peerid internal/event"},
	{"resolver", "internal/peerid internal/event"},

	// The composition root, and who stands on its public API.
	{"idloc", "netstack/... shim lsi internal/null overlay/... resolver internal/pipe internal/socket internal/wire internal/state internal/peerid internal/event"},
	{"idloc/idloctest", "idloc"},
	{"examples/...", "idloc/... resolver examples/..."}, // resolver: zone-file lines, a DNS server's sockets

	// For tests only.
	{"internal/leaktest", ""},
	{"internal/race", ""},
	{"shim/shimtest", "shim lsi internal/pipe internal/wire internal/peerid internal/event"},
	{"internal/deptest", ""},
	{"internal/soak", "idloc"},
	{"internal/kernellab", ""},
}

// foreign says which packages may import what is not ours. What is not listed
// here is free for all.
var foreign = []struct {
	path string // with everything below it
	by   string
}{
	// The shim shares the packet buffer, which saves a copy, and nothing else.
	// netstack/tun gets such buffers from it.
	{"gvisor.dev/gvisor/pkg/buffer", "netstack/... shim"},
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
	{"github.com/pion/transport", "internal/socket overlay/... idloc idloc/idloctest internal/soak"},
	{"github.com/pion/logging", "overlay/... idloc/idloctest"},
	{"github.com/pion", "overlay/..."},

	// Seeing inside is the composition root's business; libp2p wants a
	// registry for its own metrics.
	{"github.com/prometheus", "overlay idloc"},
	{"go.opentelemetry.io", "idloc"},

	{"github.com/miekg/dns", "resolver"},

	{"github.com/flynn/noise", "internal/pipe"},
	{"golang.zx2c4.com/wireguard/tun", "netstack/tun"},
	{"golang.zx2c4.com/wireguard", "internal/pipe"},
	{"filippo.io/edwards25519", "internal/pipe overlay/membership"},
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
