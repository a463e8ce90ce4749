package pipe

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// Every byte of every handshake message counts.
func TestFlip(t *testing.T) {
	n := newNetwork(0)
	a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	offer, err := a.NewOffer(b.id, Local{Chain: []byte("chain")})
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for i := 0; i < len(offer.Bytes()); i += step {
		bad := bytes.Clone(offer.Bytes())
		bad[i] ^= 1 << (i % 8)
		if in, err := b.ReadOffer(bad); err == nil || in != nil {
			t.Fatalf("offer with byte %d flipped was read", i)
		}
	}
	for i := 0; i < len(offer.Bytes()); i += 13 {
		if _, err := b.ReadOffer(offer.Bytes()[:i]); err == nil {
			t.Fatalf("offer of %d bytes was read", i)
		}
	}
	in, err := b.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal("after the forged ones:", err)
	}
	answer, _, err := in.Accept(Local{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(answer); i += step {
		bad := bytes.Clone(answer)
		bad[i] ^= 1 << (i % 8)
		if s, err := offer.Finish(bad); err == nil || s != nil {
			t.Fatalf("answer with byte %d flipped was read", i)
		}
	}
	for i := 0; i < len(answer); i += 13 {
		if _, err := offer.Finish(answer[:i]); err == nil {
			t.Fatalf("answer of %d bytes was read", i)
		}
	}
	low := bytes.Clone(answer)
	clear(low[1:33]) // an ephemeral key of small order
	if _, err := offer.Finish(low); err == nil {
		t.Fatal("ephemeral key of small order")
	}
	if _, err := offer.Finish(answer); err != nil {
		t.Fatal("after the forged ones:", err)
	}
	if n.count() != 0 {
		t.Errorf("%d datagrams were sent", n.count())
	}
}

// Offers for another overlay or responder, or under another's name, are
// refused.
func TestSwaps(t *testing.T) {
	n := newNetwork(0)
	a, b, c := newHost(t, n, 1, "192.0.2.1:1"), newHost(t, n, 2, "192.0.2.2:1"), newHost(t, n, 3, "192.0.2.3:1")
	other := newHost(t, n, 1, "192.0.2.4:1", func(cfg *Config) { cfg.Overlay[0]++ })
	offer, _ := a.NewOffer(b.id, Local{})
	if _, err := c.ReadOffer(offer.Bytes()); !errors.Is(err, ErrHandshake) {
		t.Errorf("another responder: %v", err)
	}
	elsewhere, _ := other.NewOffer(b.id, Local{})
	if _, err := b.ReadOffer(elsewhere.Bytes()); !errors.Is(err, ErrHandshake) {
		t.Errorf("another overlay: %v", err)
	}
	renamed := bytes.Clone(offer.Bytes())
	copy(renamed[1:], c.id[:])
	if _, err := b.ReadOffer(renamed); !errors.Is(err, ErrHandshake) {
		t.Errorf("another initiator: %v", err)
	}
	negative := bytes.Clone(offer.Bytes())
	negative[32] ^= 0x80 // the point with the other sign has the same u
	if _, err := b.ReadOffer(negative); !errors.Is(err, ErrHandshake) {
		t.Errorf("the negative of the initiator: %v", err)
	}
	if _, err := a.NewOffer(a.id, Local{}); err == nil {
		t.Error("offer to self")
	}
	if _, err := a.NewOffer(peerid.ID{1}, Local{}); err == nil {
		t.Error("offer to a point of small order")
	}
	in, err := b.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	offer2, _ := a.NewOffer(b.id, Local{})
	answer, _, _ := in.Accept(Local{})
	if _, err := offer2.Finish(answer); err == nil {
		t.Error("the answer to another offer")
	}
	if _, err := offer2.Finish(offer2.Bytes()); err == nil {
		t.Error("the offer as its own answer")
	}
}

func TestChooseAEAD(t *testing.T) {
	const aes, chacha = wire.AES256GCM, wire.ChaCha20Poly1305
	yes, no := true, false
	n := newNetwork(0)
	a := newHost(t, n, 1, "192.0.2.1:1", func(c *Config) { c.HasAES = &yes })
	b := newHost(t, n, 2, "192.0.2.2:1", func(c *Config) { c.HasAES = &yes })
	c := newHost(t, n, 3, "192.0.2.3:1", func(c *Config) { c.HasAES = &no })
	if s, _ := sessions(t, a, b); s.aead != aes {
		t.Errorf("both have AES: %s", handshake.AEADName(s.aead))
	}
	if s, _ := sessions(t, a, c); s.aead != chacha {
		t.Errorf("one has AES: %s", handshake.AEADName(s.aead))
	}
}

func TestOfferAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		older, _ := a.NewOffer(b.id, Local{})
		offer, _ := a.NewOffer(b.id, Local{})
		in, err := b.ReadOffer(offer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		answer, s, err := in.Accept(Local{MTU: 1400})
		if err != nil {
			t.Fatal(err)
		}
		in2, err := b.ReadOffer(offer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		answer2, s2, err := in2.Accept(Local{MTU: 1500})
		if err != nil || s2 != s || !bytes.Equal(answer, answer2) {
			t.Error("a retransmitted offer gives another answer")
		}
		// None was confirmed, so the one that was overtaken is as good.
		if late, err := b.ReadOffer(older.Bytes()); err != nil {
			t.Errorf("an older offer: %v", err)
		} else {
			late.Reject()
		}
		settle(time.Duration(halfOpenFor) + time.Second)
		if _, err := b.ReadOffer(offer.Bytes()); !errors.Is(err, ErrReplayed) {
			t.Errorf("the offer after its time: %v", err)
		}
		if b.table.live != 0 || b.responder.halfOpen != 0 {
			t.Errorf("%d indices, %d half open", b.table.live, b.responder.halfOpen)
		}
		offer3, _ := a.NewOffer(b.id, Local{})
		in3, err := b.ReadOffer(offer3.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		in3.Reject()
		if in3, err = b.ReadOffer(offer3.Bytes()); err == nil {
			if _, _, err = in3.Accept(Local{}); !errors.Is(err, ErrRejected) {
				t.Errorf("after Reject: %v", err)
			}
		}
		older.Cancel()
		offer.Cancel()
		offer3.Cancel()
		offer3.Cancel()
		if a.table.live != 0 {
			t.Errorf("%d indices after Cancel", a.table.live)
		}
	})
}

func TestOfferLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		b := newHost(t, n, 2, "192.0.2.2:1000")
		a := newHost(t, n, 1, "192.0.2.1:1000")
		busy := 0
		for range 20 {
			o, _ := a.NewOffer(b.id, Local{})
			if _, err := b.ReadOffer(o.Bytes()); errors.Is(err, ErrBusy) {
				busy++
			}
			o.Cancel()
		}
		if busy != 20-offersBurst {
			t.Errorf("%d of 20 at once were refused", busy)
		}
		if b.responder.halfOpen != maxHalfOpenPerPeer {
			t.Errorf("%d half open of one peer", b.responder.halfOpen)
		}
		c := newHost(t, n, 3, "192.0.2.3:1000")
		o, _ := c.NewOffer(b.id, Local{})
		defer o.Cancel()
		if _, err := b.ReadOffer(o.Bytes()); err != nil {
			t.Errorf("another peer: %v", err)
		}
		if _, err := a.NewOffer(b.id, Local{Chain: make([]byte, wire.MaxChain+1)}); err == nil {
			t.Error("a chain too long")
		}
		if _, err := b.ReadOffer(make([]byte, handshake.MaxMessage+1)); err == nil {
			t.Error("an offer too long")
		}
	})
}

// An answer that cannot be written takes no place in the endpoint's table.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		o, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Cancel()
		in, err := b.ReadOffer(o.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := in.Accept(Local{Chain: make([]byte, wire.MaxChain+1)}); err == nil {
			t.Error("a chain too long is accepted")
		}
		b.table.mu.Lock()
		defer b.table.mu.Unlock()
		if b.table.live != 0 {
			t.Errorf("%d places are taken", b.table.live)
		}
	})
}

func TestTimestampsRise(t *testing.T) {
	n := newNetwork(0)
	future := uint64(time.Now().Add(5 * time.Minute).UnixMicro())
	a := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.LastTimestamp = future })
	o1, _ := a.NewOffer(newHost(t, n, 2, "192.0.2.2:1").id, Local{})
	if o1.stamp != future+1 || a.LastTimestamp() != future+1 {
		t.Errorf("timestamp %d after %d", o1.stamp, future)
	}
}

func BenchmarkHandshake(b *testing.B) {
	n := newNetwork(0)
	x, y := newHost(b, n, 1, "192.0.2.1:1000"), newHost(b, n, 2, "192.0.2.2:1000")
	b.ReportAllocs()
	for b.Loop() {
		y.mu.Lock()
		y.responder = newResponder()
		y.mu.Unlock()
		sx, sy := sessions(b, x, y)
		sx.Cancel()
		sy.Cancel()
	}
}
