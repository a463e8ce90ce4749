package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/peerid"
)

const (
	maxFlights = 1024 // names being asked for, and failures remembered

	// failureTTL is how long a failure is remembered: stubs ask again at
	// once, several times, for A and AAAA (RFC 9520 §3.2 wants a second).
	failureTTL = time.Second
)

var errBusy = errors.New("too many names are being asked for")

// found is the answer of the database.
type found struct {
	peer   peerid.ID
	name   string // canonical, "" if it has none
	v4, v6 netip.Addr
}

// Lookup resolves a name of the overlay to LSIs, assigning them if the peer
// has none: "mars.example.com", with or without a final dot, or a peer ID's
// label below the domain. Errors are *net.DNSError with IsNotFound, IsTimeout
// or IsTemporary.
func (s *Server) Lookup(ctx context.Context, host string) (id peerid.ID, v4, v6 netip.Addr, err error) {
	name := strings.TrimSuffix(dns.CanonicalName(host), ".")
	label, ok := strings.CutSuffix(name+".", s.infix)
	if !ok || !isHostLabel(label) {
		err = ErrNotFound
	} else if !s.begin() {
		err = net.ErrClosed
	} else {
		defer s.work.Done()
		var f found
		if f, err = s.names.resolve(ctx, name); err == nil {
			id = f.peer
			v4, v6, err = s.assign(f)
		}
	}
	if err != nil {
		notFound := errors.Is(err, ErrNotFound)
		err = &net.DNSError{
			UnwrapErr:   err,
			Err:         reasonOf(err),
			Server:      "the overlay's database",
			Name:        host,
			IsNotFound:  notFound,
			IsTemporary: !notFound,
			IsTimeout:   errors.Is(err, context.DeadlineExceeded),
		}
	}
	return id, v4, v6, err
}

// reasonOf is the text of an error for a DNSError, which says the name itself.
func reasonOf(err error) string {
	var inner *net.DNSError
	if errors.As(err, &inner) {
		return inner.Err
	}
	return err.Error()
}

// Owns says whether the resolver answers for a host name itself.
func (s *Server) Owns(host string) bool {
	return dns.IsSubDomain(s.domain, dns.CanonicalName(host))
}

// assign gives a peer that was found its LSIs.
func (s *Server) assign(f found) (v4, v6 netip.Addr, err error) {
	v4, v6, fresh, err := s.cfg.LSIs.Assign(f.peer)
	if err == nil && fresh {
		f.v4, f.v6 = v4, v6
		s.emitAssigned(f)
	}
	return v4, v6, err
}

// flights asks the database once for all who ask for a name at the same time
// (every program asks for A and AAAA together), and goes on asking when they
// gave up: they come again. It remembers failures for a moment.
type flights struct {
	server *Server

	mu     sync.Mutex
	byName map[string]*flight
}

// flight is one name. The results are set before done is closed.
type flight struct {
	done   chan struct{}
	found  found
	err    error
	expire time.Time // of a failure that is remembered; zero while asking
}

// resolve asks for a name, without its final dot. The caller holds s.work.
func (fs *flights) resolve(ctx context.Context, name string) (found, error) {
	f, err := fs.join(name)
	if err != nil {
		return found{}, err
	}
	select {
	case <-f.done:
		return f.found, f.err
	case <-ctx.Done():
		return found{}, ctx.Err()
	}
}

// join returns the flight of a name, a new one if there is none.
func (fs *flights) join(name string) (*flight, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	now := time.Now()
	if f := fs.byName[name]; f != nil && (f.expire.IsZero() || now.Before(f.expire)) {
		return f, nil
	}
	if fs.byName == nil {
		fs.byName = make(map[string]*flight)
	}
	if len(fs.byName) >= maxFlights {
		for n, f := range fs.byName {
			if !f.expire.IsZero() {
				delete(fs.byName, n)
			}
		}
		if len(fs.byName) >= maxFlights {
			return nil, errBusy
		}
	}
	f := &flight{done: make(chan struct{})}
	fs.byName[name] = f
	fs.server.work.Add(1) // the caller's own keeps it above zero
	go fs.fly(name, f)
	return f, nil
}

// fly asks the database.
func (fs *flights) fly(name string, f *flight) {
	s := fs.server
	defer s.work.Done()
	ctx, cancel := context.WithTimeout(s.context, 2*s.cfg.Timeout)
	defer cancel()
	id, canonical, err := s.cfg.Names.Resolve(ctx, name)
	if err == nil && id.IsZero() {
		err = errors.New("the database named no peer")
	}
	f.found, f.err = found{peer: id, name: canonical}, err

	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err != nil && !errors.Is(err, ErrNotFound) {
		f.expire = time.Now().Add(failureTTL)
	} else {
		delete(fs.byName, name)
	}
	close(f.done)
}
