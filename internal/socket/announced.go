package socket

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/nat64"
)

const (
	// announcedMax bounds the prefixes of NAT64 that are kept of what routers announce,
	// announcedOnLink those of one link, where anybody may say that he is a router.
	announcedMax    = 16
	announcedOnLink = 4
)

// announced are the prefixes of NAT64 that routers announce (RFC 8781), in the order in
// which they were first heard. One is there until its router withdraws it, its lifetime
// ends or its link goes down. The zero value is empty; safe for concurrent use.
type announced struct {
	mu   sync.Mutex // guards list
	list []announcedPrefix
}

type announcedPrefix struct {
	link   int // the index of its interface
	prefix netip.Prefix
	until  time.Time
}

// hear takes what a router says on a link, and says whether that is news: a prefix came
// or went, or ends sooner than it was to. What there is no room for is dropped: a link
// has one NAT64, seldom two.
func (s *announced) hear(link int, a nat64.Announcement, now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, onLink := now.Add(a.Lifetime), 0
	for i := range s.list {
		have := &s.list[i]
		if have.link != link {
			continue
		}
		if onLink++; have.prefix != a.Prefix {
			continue
		}
		if a.Lifetime == 0 {
			s.list = slices.Delete(s.list, i, i+1)
			return true
		}
		news = until.Before(have.until)
		have.until = until
		return news
	}
	if a.Lifetime == 0 || onLink >= announcedOnLink || len(s.list) >= announcedMax {
		return false
	}
	s.list = append(s.list, announcedPrefix{link, a.Prefix, until})
	return true
}

// forget drops what was heard on a link: it went down, and may be another network's when
// it comes up.
func (s *announced) forget(link int) {
	s.drop(func(a announcedPrefix) bool { return a.link == link })
}

// expire drops what has ended, and says whether there was any.
func (s *announced) expire(now time.Time) bool {
	return s.drop(func(a announcedPrefix) bool { return !now.Before(a.until) })
}

// clear drops all.
func (s *announced) clear() { s.drop(func(announcedPrefix) bool { return true }) }

func (s *announced) drop(which func(announcedPrefix) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.list)
	s.list = slices.DeleteFunc(s.list, which)
	return len(s.list) < before
}

// ends is when the next one ends, the zero time if there is none.
func (s *announced) ends() (first time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.list {
		if first.IsZero() || a.until.Before(first) {
			first = a.until
		}
	}
	return first
}

// all returns what there is. The slice is the caller's.
func (s *announced) all() []announcedPrefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}
