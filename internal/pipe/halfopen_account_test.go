package pipe

import (
	"errors"
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
		accepted := func(h *host) error {
			o, err := h.NewOffer(b.id, Local{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Cancel()
			in, err := b.ReadOffer(o.Bytes())
			if err != nil {
				return err
			}
			if _, _, err = in.Accept(Local{}); err != nil {
				in.Reject()
			}
			return err
		}
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
		if n := b.responder.accounts; n.Len() != 0 {
			t.Errorf("charged when all have ended: %+v", n)
		}
		b.mu.Unlock()
		if err := accepted(keys[0]); err != nil {
			t.Errorf("when theirs have ended: %v", err)
		}
	})
}
