package deptest

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unlinked are packages that modules of go.mod bring along and that no program
// with a node in it carries: transports that nobody can dial here, a framework,
// and TLS over UDP, old versions of which have known holes.
var unlinked = []string{
	"github.com/libp2p/go-libp2p",
	"github.com/libp2p/go-libp2p/p2p/transport/webrtc",
	"github.com/libp2p/go-libp2p/p2p/transport/websocket",
	"github.com/libp2p/go-libp2p/p2p/transport/webtransport",
	"github.com/pion/webrtc/v4",
	"github.com/pion/dtls/v3",
	"github.com/quic-go/quic-go/http3",
	"github.com/gorilla/websocket",
	"go.uber.org/fx",
}

// TestLinked asks the go command what a program that imports idloc is made of.
func TestLinked(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./idloc")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, "gvisor.dev/gvisor/pkg/tcpip") {
		t.Fatalf("%d packages, gVisor's not among them: go list was misunderstood", len(linked))
	}
	for _, p := range unlinked {
		if slices.Contains(linked, p) {
			t.Errorf("every program links %s", p)
		}
	}
}
