package overlay

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/idloc/idloc/internal/wire"
)

// TestLateCandidatesSealed: only the peer's message of this session opens,
// whole, and no other side's.
func TestLateCandidatesSealed(t *testing.T) {
	var list []wire.Candidate
	for i := range 2 * wire.MaxCandidates {
		list = append(list, wire.Candidate{Type: wire.ServerReflexive, Priority: uint32(i), Foundation: "f",
			Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(2000+i))})
	}
	session := [16]byte{7}
	from, back := trickleKeys("one password", "the other", session)
	msg := sealCandidates(from, session, list)
	if got, err := openCandidates(from, msg); err != nil || !slices.Equal(got, list[:wire.MaxCandidates]) {
		t.Errorf("opened %v, %v", got, err)
	}
	if bytes.Contains(msg, list[0].Append(nil)) {
		t.Error("a candidate can be read")
	}
	for i := range msg {
		bad := slices.Clone(msg)
		bad[i] ^= 0x10
		if _, err := openCandidates(from, bad); err == nil {
			t.Errorf("opens with byte %d changed", i)
		}
		if _, err := openCandidates(from, msg[:i]); err == nil {
			t.Errorf("opens cut to %d bytes", i)
		}
	}
	if _, err := openCandidates(back, msg); err == nil {
		t.Error("opens as the other side's")
	}
	for what, pair := range map[string][2]string{"swapped": {"the other", "one password"}, "another's": {"one password", "a third"}} {
		if k, _ := trickleKeys(pair[0], pair[1], session); k != nil {
			if _, err := openCandidates(k, msg); err == nil {
				t.Errorf("opens with passwords %s", what)
			}
		}
	}
	if k, _ := trickleKeys("one password", "the other", [16]byte{8}); k != nil {
		if _, err := openCandidates(k, msg); err == nil {
			t.Error("opens in another session")
		}
	}
}

// TestLateCandidatesOfStrangers: messages for no session here change nothing.
func TestLateCandidatesOfStrangers(t *testing.T) {
	_, peers := crowd(t, 2)
	c := peers[0].connects
	for _, msg := range [][]byte{{trickleTag}, make([]byte, trickleHead), append([]byte{trickleTag}, make([]byte, 100)...)} {
		if err := c.trickled(peers[1].Self(), msg); err == nil {
			t.Errorf("%d bytes were taken", len(msg))
		}
	}
	if a := c.offered(offerRequest{from: peers[1].Self(), offer: []byte{trickleTag}}, peers[1].Self()); a.status != offerNotHere {
		t.Errorf("answered with status %d", a.status)
	}
}
