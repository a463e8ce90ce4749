package pipe

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// watched is something that holds keys, without keeping it alive.
type watched struct {
	name string
	weak.Pointer[byte]
}

// watch watches the object that v points at.
func watch(name string, v any) watched {
	return watched{name, weak.Make((*byte)(reflect.ValueOf(v).UnsafePointer()))}
}

// watchKeys watches all that seals and opens under k.
func watchKeys(name string, k *keypair) []watched {
	keys := k.keys.Load()
	return []watched{
		watch(name+", both directions", keys),
		watch(name+", to send", keys.send),
		watch(name+", to receive", keys.recv),
	}
}

// held returns the names of those that something still points at.
func held(ws []watched) (names []string) {
	for range 3 { // pools give up what they hold after two
		runtime.GC()
	}
	for _, w := range ws {
		if w.Value() != nil {
			names = append(names, w.name)
		}
	}
	return names
}

// What has the keys of a handshake or a rekey in it is gone once they have been
// taken over and the next rekey has ended, whoever still holds the offer, the
// session or the pipe; and with the pipe all of it is gone.
func TestKeysAreGone(t *testing.T) {
	for _, aes := range []bool{true, false} {
		for _, packets := range []uint64{1 << 27, 5} { // then a rekey is due
			t.Run(fmt.Sprintf("aes=%v/%d", aes, packets), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { keysAreGone(t, aes, packets) })
			})
		}
	}
}

func keysAreGone(t *testing.T, aes bool, packets uint64) {
	n := newNetwork(10 * time.Millisecond)
	hw := func(c *Config) { c.HasAES = &aes }
	a, b := newHost(t, n, 1, "192.0.2.1:1000", hw), newHost(t, n, 2, "192.0.2.2:1000", hw)
	a.limits.rekeyAfterPackets, b.limits.rekeyAfterPackets = packets, packets
	offer, err := a.NewOffer(b.id, Local{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	exchanges := []watched{
		watch("the initiator's exchange", offer.x),
		watch("the responder's exchange", in.x),
	}
	answer, sb, err := in.Accept(Local{})
	if err != nil {
		t.Fatal(err)
	}
	sa, err := offer.Finish(answer)
	if err != nil {
		t.Fatal(err)
	}
	if names := held(exchanges); len(names) > 0 {
		t.Errorf("after the handshake there are: %q", names)
	}
	pb, err := b.Up(sb, b.path(a))
	if err != nil {
		t.Fatal(err)
	}
	pa, err := a.Up(sa, a.path(b))
	if err != nil {
		t.Fatal(err)
	}
	// used are the keys by number, of both sides.
	used := map[uint32][]watched{}
	note := func(p *Pipe) uint32 {
		p.mu.Lock()
		defer p.mu.Unlock()
		k := p.keys.cur
		name := fmt.Sprintf("keys %d of %v", k.number, p.e.id.ID)
		if !slices.ContainsFunc(used[k.number], func(w watched) bool { return w.name == name+", to send" }) {
			used[k.number] = append(used[k.number], watchKeys(name, k)...)
		}
		return k.number
	}
	const rekeys = kemEvery + 1
	for i := uint64(0); ; i++ {
		if err := sendNumber(pa, i); err != nil {
			t.Fatal(err)
		}
		settle(50 * time.Millisecond)
		if err := sendNumber(pb, i); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		number := min(note(pa), note(pb))
		for old, ws := range used {
			if old+1 >= number {
				continue
			}
			if names := held(ws); len(names) > 0 {
				t.Fatalf("after rekey %d there are: %q", number, names)
			}
			delete(used, old)
		}
		if number == rekeys {
			break
		}
	}
	// A minute after its last use, what the last rekey took over from is gone too.
	settle(time.Duration(rejectAfter - rekeyAfter))
	if names := held(used[rekeys-1]); len(names) > 0 {
		t.Errorf("a minute after rekey %d there are: %q", rekeys, names)
	}
	clear(used) // there may have been rekeys since
	number := note(pa)
	note(pb)
	if names := held(used[number]); len(names) < 3 {
		t.Errorf("of the keys in use there are only %q", names)
	}
	pa.End(nil)
	settle(10 * time.Second)
	for number, ws := range used {
		if names := held(ws); len(names) > 0 {
			t.Errorf("of keys %d there are, after the pipe's end: %q", number, names)
		}
	}
	runtime.KeepAlive([]any{offer, in, sa, sb, pa, pb})
}

// Keys that were wiped neither seal nor open, and cost a datagram no counter.
func TestWipedKeys(t *testing.T) {
	_, _, pa, pb := pair(t, true)
	ka, kb := pa.keys.cur, pb.keys.cur
	d := make([]byte, wire.HeaderLen+10+wire.TagLen)
	var nonce [nonceLen]byte
	if !ka.seal(wire.TypeData4, d, &nonce) {
		t.Fatal("not sealed")
	}
	before, failed := ka.next.Load(), kb.failed.Load()
	ka.wipe()
	kb.wipe()
	if ka.seal(wire.TypeData4, slices.Clone(d), &nonce) || ka.next.Load() != before || ka.usable() {
		t.Error("wiped keys seal")
	}
	if _, ok := kb.open(nil, d, uint32(before-1), &nonce); ok || kb.failed.Load() != failed {
		t.Error("wiped keys open, or count a failure")
	}
	if ka.chaining != [handshake.KeyLen]byte{} {
		t.Error("the chaining key is still there")
	}
}
