package sipproxy

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/idloc"
)

const (
	defaultExpires = time.Hour // as long as the database keeps it, too
	phonesPerUser  = 16
	usersMax       = 64 // of one host; the database takes fewer
)

// registrar is who has registered at this node. It is safe for concurrent use.
type registrar struct {
	mu    sync.Mutex // guards users
	users map[string]*registered
}

// registered is one user. busy is held while the database is told.
type registered struct {
	busy   sync.Mutex
	phones []binding // guarded by the registrar's mu
}

// binding is one phone of a user.
type binding struct {
	contact sip.Uri
	at      netip.AddrPort // where it has registered from, and is called
	q       int            // thousandths
	since   time.Time
	until   time.Time
	callID  string
	seq     uint32
}

// find returns the phone of a user that is to ring: the one with the highest q, of several
// the one that has registered last.
func (r *registrar) find(user string) (best binding, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[user]
	if u == nil {
		return best, false
	}
	now := time.Now()
	for _, b := range u.phones {
		if now.Before(b.until) && (!ok || b.q > best.q || b.q == best.q && b.since.After(best.since)) {
			best, ok = b, true
		}
	}
	return best, ok
}

// of returns a user's entry, a new one if there is none; nil if there are too many.
func (r *registrar) of(user string) *registered {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[user]
	if u == nil && len(r.users) < usersMax {
		u = &registered{}
		r.users[user] = u
	}
	return u
}

// set replaces a user's phones, and forgets the user if none is left.
func (r *registrar) set(user string, u *registered, phones []binding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.phones = phones
	if len(phones) == 0 {
		delete(r.users, user)
	} else {
		r.users[user] = u
	}
}

// current returns a user's phones, without those whose time is over.
func (r *registrar) current(u *registered) (out []binding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, b := range u.phones {
		if now.Before(b.until) {
			out = append(out, b)
		}
	}
	return out
}

// register takes a REGISTER (RFC 3261 §10.3). It is answered when the database has been
// told, or has refused.
func (p *Proxy) register(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	aor := req.To().Address
	if !strings.EqualFold(aor.Host, p.domain) {
		p.answer(req, from, sip.StatusNotFound, "Users Are Of "+p.domain)
		return
	}
	u := p.registrar.of(aor.User)
	if u == nil {
		p.answer(req, from, sip.StatusServiceUnavailable, "Too Many Users")
		return
	}
	u.busy.Lock()
	defer u.busy.Unlock()
	before := p.registrar.current(u)
	after, code := p.change(before, req, from)
	if code != sip.StatusOK {
		p.registrar.set(aor.User, u, before)
		p.answer(req, from, code, "Not Like This")
		return
	}
	if err := p.tell(ctx, aor.User, before, after); err != nil {
		p.registrar.set(aor.User, u, before)
		p.log.Info("a phone's registration is refused", "user", aor.User, "phone", from, "err", err)
		if errors.Is(err, idloc.ErrRefusedByPolicy) {
			p.answer(req, from, sip.StatusForbidden, p.name+" May Not Say "+aor.User)
		} else {
			p.answer(req, from, sip.StatusServiceUnavailable, "The Database Does Not Take It")
		}
		return
	}
	p.registrar.set(aor.User, u, after)
	p.answer(req, from, sip.StatusOK, "OK", listed(after)...)
}

// change returns a user's phones as the request wants them, and a status.
func (p *Proxy) change(before []binding, req *sip.Request, from netip.AddrPort) (after []binding, code int) {
	all := expires(req.GetHeader("Expires"), defaultExpires)
	after = append(after, before...)
	now := time.Now()
	for _, h := range req.GetHeaders("Contact") {
		c, ok := h.(*sip.ContactHeader)
		if !ok {
			return nil, sip.StatusBadRequest
		}
		if c.Address.Wildcard {
			if all != 0 {
				return nil, sip.StatusBadRequest
			}
			after = nil
			continue
		}
		b := binding{contact: *c.Address.Clone(), at: from, q: 1000, since: now, callID: req.CallID().Value(), seq: req.CSeq().SeqNo}
		life := all
		if text, ok := c.Params.Get("expires"); ok {
			life = seconds(text, life)
		}
		if text, ok := c.Params.Get("q"); ok {
			b.q = weight("q=" + text)
		}
		b.until = now.Add(min(life, defaultExpires))
		for i, old := range after {
			if old.contact.String() != b.contact.String() {
				continue
			}
			if old.callID == b.callID && old.seq > b.seq {
				return nil, sip.StatusInternalServerError // §10.3 step 7: it was overtaken
			}
			after = append(after[:i:i], after[i+1:]...)
			break
		}
		if life > 0 {
			after = append(after, b)
		}
	}
	if len(after) > phonesPerUser {
		return nil, sip.StatusServiceUnavailable
	}
	return after, sip.StatusOK
}

// tell says in the database what is new about a user.
func (p *Proxy) tell(ctx context.Context, user string, before, after []binding) error {
	if len(after) == 0 {
		if len(before) == 0 {
			return nil
		}
		return p.node.WithdrawUser(ctx, service+user)
	}
	q, until := 0, time.Time{}
	for _, b := range after {
		q = max(q, b.q)
		if b.until.After(until) {
			until = b.until
		}
	}
	return p.node.PublishUser(ctx, service+user, "q="+quality(q), time.Until(until).Round(time.Second))
}

// listed are a user's phones as a 200 tells them.
func listed(phones []binding) (out []sip.Header) {
	for _, b := range phones {
		c := &sip.ContactHeader{Address: b.contact, Params: sip.NewParams()}
		c.Params.Add("expires", strconv.Itoa(max(1, int(time.Until(b.until).Round(time.Second).Seconds()))))
		c.Params.Add("q", quality(b.q))
		out = append(out, c)
	}
	return out
}

func expires(h sip.Header, otherwise time.Duration) time.Duration {
	if h == nil {
		return otherwise
	}
	return seconds(h.Value(), otherwise)
}

func seconds(text string, otherwise time.Duration) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return otherwise // §10.3 step 7: a malformed value is as if it were 3600
	}
	return time.Duration(n) * time.Second
}
