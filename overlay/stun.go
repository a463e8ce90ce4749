package overlay

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/socket"
)

const (
	stunHeaderLen = 20
	stunCookie    = 0x2112A442

	// What the responder answers a source a second, and everybody.
	stunPerSource = 10
	stunBurst     = 30
	stunTotal     = 2000
	stunSources   = 4096 // sources remembered

	// Reflexive addresses: RTO 100 ms, doubled (RFC 8489 §6.2.1 with the
	// value of RFC 8445 §14.3 for a first guess), asked of two members.
	stunRTO     = 100 * time.Millisecond
	stunTries   = 5
	stunServers = 2
	// stunRefresh is how often a mapped address is measured again without a
	// reason: mappings live for two minutes and more (RFC 4787 REQ-5), and
	// pipes keep them alive.
	stunRefresh = 2 * time.Minute
)

type transactionID = [stun.TransactionIDSize]byte

// stunKind is what a STUN message is to the demux.
type stunKind uint8

const (
	stunOther stunKind = iota
	stunRequest
	stunResponse
)

// classify reads the fixed header of a STUN message (RFC 8489 §5) and its
// fingerprint, if it has one; a connectivity check must (RFC 8445 §7): it
// is no STUN to us if that is wrong. Binding method only.
func classify(b []byte) (stunKind, transactionID) {
	var id transactionID
	if len(b) < stunHeaderLen || binary.BigEndian.Uint32(b[4:]) != stunCookie ||
		int(binary.BigEndian.Uint16(b[2:]))+stunHeaderLen != len(b) || len(b)%4 != 0 {
		return stunOther, id
	}
	marked, right := fingerprint(b)
	if marked && !right {
		return stunOther, id
	}
	copy(id[:], b[8:])
	switch binary.BigEndian.Uint16(b) {
	case 0x0001:
		if !marked && username(b) != nil {
			return stunOther, id
		}
		return stunRequest, id
	case 0x0101, 0x0111:
		return stunResponse, id
	}
	return stunOther, id
}

// fingerprint says whether the last attribute is a FINGERPRINT, and the right
// one (RFC 8489 §14.7).
func fingerprint(b []byte) (marked, right bool) {
	const size = 8
	if len(b) < stunHeaderLen+size {
		return false, false
	}
	at := len(b) - size
	if binary.BigEndian.Uint32(b[at:]) != uint32(stun.AttrFingerprint)<<16|4 {
		return false, false
	}
	return true, binary.BigEndian.Uint32(b[at+4:]) == crc32.ChecksumIEEE(b[:at])^0x5354554e
}

// username returns the part of USERNAME before the colon: the receiver's
// fragment (RFC 8445 §7.2.2). It is nil if there is none.
func username(b []byte) []byte {
	for a := b[stunHeaderLen:]; len(a) >= 4; {
		kind, n := binary.BigEndian.Uint16(a), int(binary.BigEndian.Uint16(a[2:]))
		if n > len(a)-4 {
			return nil
		}
		if kind == uint16(stun.AttrUsername) {
			name := a[4 : 4+n]
			if i := slices.Index(name, ':'); i >= 0 {
				return name[:i]
			}
			return name
		}
		a = a[min(len(a), 4+(n+3)&^3):]
	}
	return nil
}

// stunDemux sends the port's STUN messages where they belong: requests to the
// establishment that owns the fragment, responses to whoever asked, the rest
// of the requests to the responder. It is safe for concurrent use.
type stunDemux struct {
	mu       sync.RWMutex // guards the maps
	sessions map[string]*iceSession
	pending  map[transactionID]func(c *socket.Conn, from netip.AddrPort, b []byte)
	// The same for pairs through TURN servers (turncheck.go).
	turns    map[string]*turnSession
	checking map[transactionID]func(from netip.AddrPort, b []byte)

	limits *sourceLimits
	pacer  *pacer // of the checks that this node sends

	dropped [stunDrops]atomic.Uint64
}

// stunDrop says why a message drew no answer and went nowhere. Drops are
// counted, never formatted.
type stunDrop uint8

const (
	stunMalformed   stunDrop = iota // no Binding message of RFC 8489
	stunUser                        // a check of no establishment of this node's
	stunTransaction                 // a response that nobody waits for
	stunRate                        // more requests than are answered
	stunDrops
)

var stunDropNames = [stunDrops]string{
	stunMalformed:   "malformed",
	stunUser:        "unknown user",
	stunTransaction: "unknown transaction",
	stunRate:        "rate",
}

// drops returns the counts by reason, without those that are zero.
func (d *stunDemux) drops() map[string]uint64 {
	m := make(map[string]uint64)
	for r := range d.dropped {
		if n := d.dropped[r].Load(); n > 0 {
			m[stunDropNames[r]] = n
		}
	}
	return m
}

func newSTUNDemux() *stunDemux {
	return &stunDemux{
		sessions: map[string]*iceSession{},
		pending:  map[transactionID]func(*socket.Conn, netip.AddrPort, []byte){},
		turns:    map[string]*turnSession{},
		checking: map[transactionID]func(netip.AddrPort, []byte){},
		limits:   newSourceLimits(stunPerSource, stunBurst, stunTotal, stunSources),
		pacer:    newPacer(),
	}
}

// handle takes one message from the socket; b is borrowed.
func (d *stunDemux) handle(c *socket.Conn, from netip.AddrPort, b []byte) {
	kind, id := classify(b)
	if d.handleCheck(c, from, b, kind, id) {
		return
	}
	switch kind {
	case stunRequest:
		if name := username(b); name != nil {
			d.mu.RLock()
			s := d.sessions[string(name)]
			d.mu.RUnlock()
			if s != nil {
				s.request(c, from, b)
			} else { // an unknown fragment draws no answer
				d.dropped[stunUser].Add(1)
			}
			return
		}
		d.respond(c, from, id)
	case stunResponse:
		d.mu.RLock()
		f := d.pending[id]
		d.mu.RUnlock()
		if f != nil {
			f(c, from, b)
		} else {
			d.dropped[stunTransaction].Add(1)
		}
	default:
		d.dropped[stunMalformed].Add(1)
	}
}

// respond answers a plain Binding request with the address that it came from:
// any member can learn its mapped address from any other.
func (d *stunDemux) respond(c *socket.Conn, from netip.AddrPort, id transactionID) {
	if !d.limits.allow(from.Addr()) {
		d.dropped[stunRate].Add(1)
		return
	}
	m, err := stun.Build(stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}, stun.Fingerprint)
	if err != nil {
		return
	}
	_ = c.WriteTo(m.Raw, from)
}

// measure asks server, from c, for the address that c has there.
func (d *stunDemux) measure(ctx context.Context, c *socket.Conn, server netip.AddrPort) (netip.AddrPort, bool) {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.Fingerprint)
	if err != nil {
		return netip.AddrPort{}, false
	}
	got := make(chan netip.AddrPort, 1)
	d.mu.Lock()
	d.pending[m.TransactionID] = func(_ *socket.Conn, from netip.AddrPort, b []byte) {
		if from != server {
			return
		}
		if a, ok := mappedAddress(b); ok {
			select {
			case got <- a:
			default:
			}
		}
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.pending, m.TransactionID)
		d.mu.Unlock()
	}()
	wait := stunRTO
	for range stunTries {
		if c.WriteTo(m.Raw, server) != nil {
			return netip.AddrPort{}, false
		}
		t := time.NewTimer(wait)
		select {
		case a := <-got:
			t.Stop()
			return a, true
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return netip.AddrPort{}, false
		}
		wait *= 2
	}
	return netip.AddrPort{}, false
}

// mappedAddress reads XOR-MAPPED-ADDRESS from a success response.
func mappedAddress(b []byte) (netip.AddrPort, bool) {
	m := &stun.Message{Raw: slices.Clone(b)}
	if m.Decode() != nil || m.Type != stun.BindingSuccess {
		return netip.AddrPort{}, false
	}
	var x stun.XORMappedAddress
	if x.GetFrom(m) != nil {
		return netip.AddrPort{}, false
	}
	ip, ok := netip.AddrFromSlice(x.IP)
	if !ok || x.Port <= 0 || x.Port > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), true
}

// sourceLimits is a token bucket for each source address and one for all, in
// bounded memory: when it is full the buckets start anew.
type sourceLimits struct {
	perSource rate.Limit
	burst     int
	max       int
	total     *rate.Limiter

	mu      sync.Mutex
	sources map[netip.Addr]*rate.Limiter
}

func newSourceLimits(perSource, burst, total, sources int) *sourceLimits {
	return &sourceLimits{
		perSource: rate.Limit(perSource), burst: burst, max: sources,
		total: rate.NewLimiter(rate.Limit(total), total), sources: map[netip.Addr]*rate.Limiter{},
	}
}

func (l *sourceLimits) allow(a netip.Addr) bool {
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64) // one customer, RFC 6177
		if err != nil {
			return false
		}
		a = p.Addr()
	}
	l.mu.Lock()
	b := l.sources[a]
	if b == nil {
		if len(l.sources) >= l.max {
			clear(l.sources)
		}
		b = rate.NewLimiter(l.perSource, l.burst)
		l.sources[a] = b
	}
	l.mu.Unlock()
	return b.Allow() && l.total.Allow()
}

// reflexive keeps the mapped addresses of the port's sockets, measured in the
// background so that an offer never waits for them (DESIGN §14.9). It is safe
// for concurrent use.
type reflexive struct {
	demux   *stunDemux
	conns   func() []*socket.Conn
	servers func() []netip.AddrPort // members and configured servers, best first

	changed func() // other mapped addresses than before; nil: nobody asks

	kick chan struct{}

	mu     sync.Mutex // guards what follows
	mapped map[*socket.Conn][]netip.AddrPort
	told   map[*socket.Conn]int // servers that have answered
	done   chan struct{}        // closed by the next measurement that began after it was made
}

func newReflexive(d *stunDemux, conns func() []*socket.Conn, servers func() []netip.AddrPort) *reflexive {
	return &reflexive{demux: d, conns: conns, servers: servers,
		kick: make(chan struct{}, 1), mapped: map[*socket.Conn][]netip.AddrPort{}}
}

// again asks for a new measurement.
func (r *reflexive) again() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// measured asks for a new measurement and returns a channel that is closed
// when it is done.
func (r *reflexive) measured() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
	}
	r.again()
	return r.done
}

// known says whether a server has answered the newest measurement.
func (r *reflexive) known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.told {
		if n > 0 {
			return true
		}
	}
	return false
}

// of returns the mapped addresses of c that differ from its own.
func (r *reflexive) of(c *socket.Conn) []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mapped[c])
}

// nat judges the address translation before the port from what servers have
// answered (RFC 4787 §4.1, RFC 5780): "" if nobody has, "none", "translated"
// when only one server was there to ask, "endpoint-independent" when several
// saw one mapping, and "endpoint-dependent" (symmetric) when they saw
// different ones. Of several sockets the worst counts.
func (r *reflexive) nat() string {
	kinds := []string{"", "none", "translated", "endpoint-independent", "endpoint-dependent"}
	r.mu.Lock()
	defer r.mu.Unlock()
	worst := 0
	for c, told := range r.told {
		k := 0
		switch n := len(r.mapped[c]); {
		case told == 0:
		case n == 0:
			k = 1
		case n > 1:
			k = 4
		case told == 1:
			k = 2
		default:
			k = 3
		}
		worst = max(worst, k)
	}
	return kinds[worst]
}

// run measures when asked and now and then, until ctx ends.
func (r *reflexive) run(ctx context.Context) {
	t := time.NewTimer(stunRefresh)
	defer t.Stop()
	var wg sync.WaitGroup
	stop := func() {}
	for {
		select {
		case <-ctx.Done():
		case <-r.kick:
		case <-t.C:
		}
		stop() // a server that does not answer holds nothing up
		wg.Wait()
		if ctx.Err() != nil {
			return
		}
		var one context.Context
		one, stop = context.WithCancel(ctx)
		wg.Go(func() { r.measure(one) })
		t.Reset(stunRefresh)
	}
}

func (r *reflexive) measure(ctx context.Context) {
	r.mu.Lock()
	done := r.done
	r.done = nil
	r.mu.Unlock()
	finished := sync.OnceFunc(func() {
		if done != nil {
			close(done)
		}
	})
	defer finished()
	conns := r.conns()
	servers := r.servers()
	next := make(map[*socket.Conn][]netip.AddrPort, len(conns))
	told := make(map[*socket.Conn]int, len(conns))
	var mu sync.Mutex // guards next, told and silent
	silent := map[*socket.Conn]bool{}
	var wg sync.WaitGroup
	// One answer for each socket is enough to go on with.
	answered := func(c *socket.Conn) {
		if delete(silent, c); len(silent) > 0 || ctx.Err() != nil {
			return
		}
		r.keep(maps.Clone(next), maps.Clone(told))
		finished()
	}
	mu.Lock() // until all questions are out
	for _, c := range conns {
		n := 0
		for _, s := range servers {
			if !reaches(c.LocalAddr().Addr(), s.Addr()) {
				continue
			}
			if n++; n > stunServers {
				break
			}
			silent[c] = true
			wg.Go(func() {
				a, ok := r.demux.measure(ctx, c, s)
				mu.Lock()
				defer mu.Unlock()
				if ok {
					told[c]++
				}
				if ok && a != c.LocalAddr() && !slices.Contains(next[c], a) {
					next[c] = append(next[c], a)
				}
				if ok {
					answered(c)
				}
			})
		}
	}
	mu.Unlock()
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	r.keep(next, told)
}

// keep takes the result of a measurement, and tells if an address is new.
func (r *reflexive) keep(next map[*socket.Conn][]netip.AddrPort, told map[*socket.Conn]int) {
	r.mu.Lock()
	fresh := false
	for c, as := range next {
		for _, a := range as {
			fresh = fresh || !slices.Contains(r.mapped[c], a)
		}
	}
	r.mapped, r.told = next, told
	r.mu.Unlock()
	if fresh && r.changed != nil {
		r.changed()
	}
}

// reaches says whether a datagram from a local address can get to a remote
// one, as far as the addresses tell: same family, and loopback only among
// itself.
func reaches(local, remote netip.Addr) bool {
	return local.Is4() == remote.Is4() && local.IsLoopback() == remote.IsLoopback()
}
