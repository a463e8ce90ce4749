package resolver

import (
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/peerid"
)

// txtPrefix marks the TXT record that names a peer.
const txtPrefix = "idloc="

// ZoneLine returns the line of a DNS zone file that stores a peer's name in
// public DNS too (draft §5: "MAY be stored in DNS as well"):
//
//	mars.example.com.	3600	IN	TXT	"idloc=12D3KooW…"
//
// It holds the peer ID, because LSIs mean nothing on other nodes. Whoever
// reads it there must still be a member to reach the peer, and knows no more
// than that the owner of the DNS zone said so.
func ZoneLine(name string, id peerid.ID, ttl time.Duration) (string, error) {
	fqdn := dns.CanonicalName(name)
	labels := dns.SplitDomainName(fqdn)
	if _, ok := dns.IsDomainName(fqdn); !ok || len(labels) < 2 {
		return "", fmt.Errorf("zone line: bad name %q", name)
	}
	for _, l := range labels {
		if !isHostLabel(l) {
			return "", fmt.Errorf("zone line: bad name %q", name)
		}
	}
	if id.IsZero() || ttl < 0 || ttl > 1<<31*time.Second-1 {
		return "", fmt.Errorf("zone line for %q: bad peer ID or TTL", name)
	}
	return fmt.Sprintf("%s\t%d\tIN\tTXT\t%q", fqdn, ttl/time.Second, txtPrefix+id.String()), nil
}

// ZoneLines returns one ZoneLine for each name, in the order of names, and
// what they are for as a comment.
func ZoneLines(names []string, idOf func(name string) peerid.ID, ttl time.Duration) (string, error) {
	var b strings.Builder
	b.WriteString("; peers of an idloc overlay: the peer ID of each name\n")
	for _, name := range names {
		line, err := ZoneLine(name, idOf(name), ttl)
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String(), nil
}
