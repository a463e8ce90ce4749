package mesh

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

// A member says where it sees a peer, on connections and on pipes, and nothing of others.
func TestSeenAt(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	hub, asker, peer, stranger := f.launch(), f.launch(), f.launch(), f.launch()
	asker.meet(hub)
	peer.meet(hub)
	piped := netip.MustParseAddrPort("20.0.0.7:7")
	hub.mu.Lock()
	hub.pipes = map[peerid.ID][]netip.AddrPort{peer.id: {piped}}
	hub.mu.Unlock()
	for _, tt := range []struct {
		desc    string
		by, who peerid.ID
		at      string
		want    bool
	}{
		{"on a connection", hub.id, peer.id, "127.0.0.1", true},
		{"on a pipe", hub.id, peer.id, "20.0.0.7", true},
		{"elsewhere", hub.id, peer.id, "20.0.0.8", false},
		{"who is not connected", hub.id, stranger.id, "127.0.0.1", false},
		{"who cannot be asked", stranger.id, peer.id, "127.0.0.1", false},
	} {
		seen := func() bool { return asker.SeenAt(t.Context(), tt.by, tt.who, netip.MustParseAddr(tt.at)) }
		if tt.want {
			await(t, "seen "+tt.desc, seen) // an answer that is too slow is none
		} else if seen() {
			t.Errorf("%s: seen", tt.desc)
		}
	}
	hub.mu.Lock()
	hub.refuse = true
	hub.mu.Unlock()
	if asker.SeenAt(t.Context(), hub.id, peer.id, netip.MustParseAddr("127.0.0.1")) {
		t.Error("a question beyond the rate was answered")
	}
}

// Whoever answers anything but yes has not seen the peer.
func TestSeenAtOfALiar(t *testing.T) {
	t.Parallel()
	for _, answer := range [][]byte{nil, {0}, {2}, {1, 1}} {
		f := newFleet(t)
		hub, asker := f.launch(), f.launch()
		hub.answers(seenProtocol, answer, nil)
		asker.meet(hub)
		if asker.SeenAt(t.Context(), hub.id, peerid.ID{1}, netip.MustParseAddr("127.0.0.1")) {
			t.Errorf("%v is a yes", answer)
		}
	}
}

func FuzzSeen(f *testing.F) {
	f.Add(bytes.Repeat([]byte{1}, peerid.Size+16))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, at, err := readSeen(b)
		if (err == nil) != (len(b) >= peerid.Size+16) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		if err == nil && (!bytes.Equal(id[:], b[:peerid.Size]) || !at.IsValid()) {
			t.Errorf("%v at %v", id, at)
		}
	})
}
