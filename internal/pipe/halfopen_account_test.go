package pipe

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
)

// TestHalfOpenOfOneToken is the attack: keys of one token make offers and confirm none.
// They hold a quarter of what may be half open; who came by another token is answered,
// and when theirs have ended they are as well.
func TestHalfOpenOfOneToken(t *testing.T) {
	halfOpenOf(t, func(peerid.ID) account.Account { return account.Account{Invitation: "a token"} }, maxHalfOpenPerAccount)
}

// TestHalfOpenOfOneDelegate is the attack: each key has come by a token of its own, which
// one delegate has written. They hold half.
func TestHalfOpenOfOneDelegate(t *testing.T) {
	halfOpenOf(t, func(p peerid.ID) account.Account {
		return account.Account{Invitation: string(p[:]), Delegate: "a delegate"}
	}, 2*maxHalfOpenPerAccount)
}

// halfOpenOf has 64 keys, whose account is given, hold what they can, and wants it to be
// most.
func halfOpenOf(t *testing.T, charged func(peerid.ID) account.Account, most int) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		other := newHost(t, n, 200, "192.0.2.3:1000")
		b := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) {
			c.Account = func(p peerid.ID) account.Account {
				if p == other.id {
					return account.Account{Invitation: "another token"}
				}
				return charged(p)
			}
		})
		var keys []*host
		for i := range maxHalfOpen / maxHalfOpenPerPeer {
			keys = append(keys, newHost(t, n, byte(10+i), "192.0.2.1:1000"))
		}
		accepted := func(h *host) error { _, err := offered(t, h, b); return err }
		flood := func() (took int) {
			for range maxHalfOpenPerPeer {
				for _, h := range keys {
					if err := accepted(h); err == nil {
						took++
					} else if !errors.Is(err, ErrBusy) {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Second / 4) // a peer's offers are limited too
			}
			return took
		}
		if took := flood(); took != most {
			t.Errorf("%d are half open, of %d, want %d", took, maxHalfOpen, most)
		}
		if err := accepted(other); err != nil {
			t.Errorf("of another token: %v", err)
		}
		time.Sleep(time.Duration(halfOpenFor) + time.Second)
		b.mu.Lock()
		if n := b.responder.charged.Len(); n != 0 {
			t.Errorf("%d are charged when all have ended", n)
		}
		b.mu.Unlock()
		if err := accepted(keys[0]); err != nil {
			t.Errorf("when theirs have ended: %v", err)
		}
	})
}

// TestHalfOpenOfTwoDelegates is the attack: two delegates, each by many tokens and keys, hold
// all that may be half open, and make offers again and again. Each member that one token of
// the founder's has let in is answered all the same, and its offer is not given up for theirs.
func TestHalfOpenOfTwoDelegates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		hostile := map[peerid.ID]int{}
		b := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) {
			c.Account = func(p peerid.ID) account.Account {
				if i, ok := hostile[p]; ok {
					return account.Account{Invitation: string(p[:]), Delegate: fmt.Sprint("delegate ", i%2)}
				}
				return account.Account{Invitation: "a token of the founder's"}
			}
		})
		var keys []*host
		for i := range maxHalfOpen / maxHalfOpenPerPeer {
			h := newHost(t, n, byte(10+i), "192.0.2.1:1000")
			hostile[h.id] = i
			keys = append(keys, h)
		}
		accepted := func(h *host) (*Incoming, error) { return offered(t, h, b) }
		flood := func() {
			for range maxHalfOpenPerPeer {
				for _, h := range keys {
					if _, err := accepted(h); err != nil && !errors.Is(err, ErrBusy) {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Second / 4) // a peer's offers are limited too
			}
		}
		charged := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.responder.charged.Len()
		}
		flood()
		if n := charged(); n != maxHalfOpen {
			t.Fatalf("%d are half open, of %d", n, maxHalfOpen)
		}
		var honest []*Incoming
		for i := range 16 {
			in, err := accepted(newHost(t, n, byte(100+i), "192.0.2.3:1000"))
			if err != nil {
				t.Fatalf("member %d: %v", i, err)
			}
			honest = append(honest, in)
		}
		flood()
		b.mu.Lock()
		for i, in := range honest {
			if !in.open {
				t.Errorf("the offer of member %d is given up for theirs", i)
			}
		}
		if held := len(b.sessions); held > maxHalfOpen || b.responder.halfOpen > maxHalfOpen {
			t.Errorf("%d sessions and %d half open, of %d", held, b.responder.halfOpen, maxHalfOpen)
		}
		b.mu.Unlock()
		time.Sleep(time.Duration(halfOpenFor) + time.Second)
		if n := charged(); n != 0 {
			t.Errorf("%d are charged when all have ended", n)
		}
	})
}

// offered has h make an offer, which b accepts or rejects.
func offered(t *testing.T, h, b *host) (*Incoming, error) {
	t.Helper()
	o, err := h.NewOffer(b.id, Local{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Cancel()
	in, err := b.ReadOffer(o.Bytes())
	if err != nil {
		return nil, err
	}
	if _, _, err = in.Accept(Local{}); err != nil {
		in.Reject()
	}
	return in, err
}
