package idloc_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

// provoked is an error that a user can get, and what must hold of it.
type provoked struct {
	what string
	err  error
	text string // a pattern for the whole text; peer IDs, LSIs and ports as ID, LSI and PORT
	is   []error
}

var (
	idText   = regexp.MustCompile(`12D3KooW[1-9A-HJ-NP-Za-km-z]{44}`)
	lsiText  = regexp.MustCompile(`\b198\.1[89]\.\d+\.\d+\b|\b2001:2\w*:[0-9a-f:]+\b`)
	portText = regexp.MustCompile(`:\d{4,5}\b`)
	// packageText is a package's own name for its errors, in the middle.
	packageText = regexp.MustCompile(`.\bidloc: |\b(overlay|netstack|resolver|lsi|shim|membership|naming|pipe|canon|state|socket): `)
	badText     = regexp.MustCompile(`%!|<nil>| :\D`)
	wordText    = regexp.MustCompile(`[\w.-]+`)
)

// check reads errors as a person would: each says what it is about once, on
// one line, in words of the public API.
func check(t *testing.T, all ...provoked) {
	t.Helper()
	for _, p := range all {
		if p.err == nil {
			t.Errorf("%s: no error", p.what)
			continue
		}
		wasProvoked(p.err)
		text := p.err.Error()
		for _, fault := range faults(text) {
			t.Errorf("%s: %s:\n\t%s", p.what, fault, text)
		}
		plain := portText.ReplaceAllString(lsiText.ReplaceAllString(idText.ReplaceAllString(text, "ID"), "LSI"), ":PORT")
		if !regexp.MustCompile("^" + p.text + "$").MatchString(plain) {
			t.Errorf("%s: the text is\n\t%s\nwant\n\t%s", p.what, plain, p.text)
		}
		for _, target := range p.is {
			if !errors.Is(p.err, target) {
				t.Errorf("%s: %v is not %v", p.what, p.err, target)
			}
		}
	}
}

// faults says what is wrong with an error's text.
func faults(text string) (out []string) {
	if strings.ContainsAny(text, "\n\r\t") {
		out = append(out, "several lines")
	}
	if text == "" || strings.TrimRight(text, ".,:;!? ") != text || strings.TrimSpace(text) != text {
		out = append(out, "ends with punctuation")
	}
	if badText.MatchString(text) {
		out = append(out, "is badly formatted")
	}
	if m := packageText.FindString(text); m != "" {
		out = append(out, "names a package inside: "+m)
	}
	seen := map[string]bool{}
	for _, part := range strings.Split(text, ": ") {
		if part = strings.ToLower(part); seen[part] {
			out = append(out, "says twice: "+part)
		}
		seen[part] = true
	}
	words := wordText.FindAllString(strings.ToLower(text), -1)
	for i := range words {
		for n := 1; i+2*n <= len(words); n++ {
			if a, b := strings.Join(words[i:i+n], " "), strings.Join(words[i+n:i+2*n], " "); a == b {
				out = append(out, "says twice in a row: "+a)
			}
		}
	}
	return out
}

// dialError is what Dial of address says, without a deadline, until which it
// would go on.
func dialError(t *testing.T, n *idloc.Node, network, address string) error {
	t.Helper()
	c, err := n.Dial(t.Context(), network, address)
	if err == nil {
		c.Close()
	}
	return err
}

// unanswered is what an error says if a member that was asked has not answered: on a machine
// that is busy enough one takes longer than a Dial waits for it.
const unanswered = "no answer from the 1 member"

// answered returns the error of what was tried, and tried again until the members that are
// asked have answered.
func answered(t *testing.T, what string, err error, again func() error) error {
	t.Helper()
	within(t, "an answer about "+what, patience, func() bool {
		if err == nil || !strings.Contains(err.Error(), unanswered) {
			return true
		}
		err = again()
		return false
	})
	return err
}

// dialAnswered is dialError once the members that are asked have answered.
func dialAnswered(t *testing.T, n *idloc.Node, network, address string) error {
	t.Helper()
	again := func() error { return dialError(t, n, network, address) }
	return answered(t, address, again(), again)
}

// TestErrorTexts provokes the errors that users see, through the public API,
// and reads them.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	t.Run("provoked", func(t *testing.T) { // which ends when all have
		t.Run("names and addresses", textsOfNames)
		t.Run("conns", textsOfConns)
		t.Run("conns that end", textsOfEnds)
		t.Run("a conn that nobody acknowledges", textsOfTimeout)
		t.Run("a node that ends", textsOfCut)
		t.Run("peers that are gone", textsOfGone)
		t.Run("nobody there", textsOfAlone)
		t.Run("tokens", textsOfTokens)
		t.Run("rights", textsOfRights)
		t.Run("authorities", textsOfAuthorities)
		t.Run("configuration", textsOfConfig)
		t.Run("mistakes", textsOfMistakes)
		t.Run("null encapsulation", textsOfNull)
		t.Run("several overlays", textsOfDialer)
	})
	t.Run("all of the table", allProvoked)
}

func textsOfNames(t *testing.T) {
	t.Parallel()
	_, venus, _ := solar(t)
	ctx := t.Context()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, cancelErr := venus.Dial(cancelled, "tcp", "mars:80")
	past, stop := context.WithDeadline(ctx, time.Unix(1, 0))
	defer stop()
	_, pastErr := venus.Dial(past, "tcp", "mars:80")
	_, whois := venus.WhoIs(netipAddr("192.0.2.1:80"))
	_, ping := venus.Ping(ctx, "pluto")
	_, resolver := venus.Resolver().LookupHost(ctx, "pluto.example.com")
	resp, httpErr := venus.HTTPClient().Get("http://mars.example.com:81/")
	if httpErr == nil {
		resp.Body.Close()
	}
	check(t,
		provoked{"nobody's name", dialError(t, venus, "tcp", "pluto.example.com:80"), `dial tcp: lookup pluto\.example\.com on the overlay's database: no such host`, nil},
		provoked{"nobody's label", dialError(t, venus, "tcp", "pluto:80"), `dial tcp: lookup pluto\.example\.com on the overlay's database: no such host`, nil},
		provoked{"another domain", dialError(t, venus, "tcp", "www.example.org:80"), `dial tcp: lookup www\.example\.org: not a name of the overlay example\.com`, nil},
		provoked{"a deeper name", dialError(t, venus, "tcp", "a.b.example.com:80"), `dial tcp: lookup a\.b\.example\.com: no such host`, nil},
		provoked{"nobody's LSI", dialError(t, venus, "tcp", "198.18.200.200:80"), `dial tcp: address LSI: not an LSI of this node`, nil},
		provoked{"a real address", dialError(t, venus, "tcp", "192.0.2.1:80"), `dial tcp: address 192\.0\.2\.1: not an LSI of this node`, nil},
		provoked{"another family", dialError(t, venus, "tcp6", "198.18.0.1:80"), `dial tcp6: address LSI: no suitable address found`, nil},
		provoked{"no port", dialError(t, venus, "tcp", "mars.example.com"), `dial tcp: address mars\.example\.com: missing port in address`, nil},
		provoked{"no address", dialError(t, venus, "tcp", ""), `dial tcp: missing address`, nil},
		provoked{"no such service", dialError(t, venus, "tcp", "mars:nosuch"), `dial tcp: lookup tcp/nosuch: unknown port`, nil},
		provoked{"no such network", dialError(t, venus, "unix", "mars:80"), `dial unix: unknown network unix`, nil},
		provoked{"cancelled", cancelErr, `dial tcp: lookup mars\.example\.com on the overlay's database: operation was canceled`, []error{context.Canceled}},
		provoked{"too late", pastErr, `dial tcp: lookup mars\.example\.com on the overlay's database: i/o timeout`, []error{context.DeadlineExceeded}},
		provoked{"closed port", dialError(t, venus, "tcp", "mars.example.com:81"), `dial tcp mars\.example\.com:81 \(LSI\): connect: connection refused`, []error{syscall.ECONNREFUSED}},
		provoked{"closed port of a label", dialError(t, venus, "tcp", "mars:81"), `dial tcp mars:81 \(LSI\): connect: connection refused`, []error{syscall.ECONNREFUSED}},
		provoked{"closed port of its own", dialError(t, venus, "tcp", "venus:81"), `dial tcp venus:81 \(LSI\): connect: connection refused`, []error{syscall.ECONNREFUSED}},
		provoked{"closed port of an LSI", dialError(t, venus, "tcp", lsiOf(t, venus, "mars")+":81"), `dial tcp LSI:81: connect: connection refused`, []error{syscall.ECONNREFUSED}},
		provoked{"HTTP to a closed port", httpErr, `Get "http://mars\.example\.com:81/": dial tcp mars\.example\.com:81 \(LSI\): connect: connection refused`, []error{syscall.ECONNREFUSED}},
		provoked{"WhoIs of a stranger", whois, `address 192\.0\.2\.1: not an LSI of this node`, nil},
		provoked{"Ping of nobody", ping, `lookup pluto\.example\.com on the overlay's database: no such host`, nil},
		provoked{"Resolver, nobody", resolver, `lookup pluto\.example\.com on \S+: no such host`, nil},
		provoked{"Revoke by a member", venus.Revoke(ctx, "pluto"), `idloc: revoke pluto: refused by policy: only the founder, or another authority, can do this`, nil},
	)
}

// TestFaults: what check finds fault with.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"label taken: label taken", `idloc: label taken: "label taken: \"mars\""`, "connect (peer x): connect: connect: refused",
		"idloc: invite: idloc: refused", "idloc: overlay: closed", "dial tcp : missing address", "two\nlines", "it ended.", "", "%!v(MISSING)",
		"failed to dial: failed to dial x",
	} {
		if len(faults(text)) == 0 {
			t.Errorf("no fault in %q", text)
		}
	}
	if f := faults("dial tcp mars.example.com:81 (198.18.0.2): connect: connection refused"); f != nil {
		t.Errorf("faults in a good text: %q", f)
	}
}

func netipAddr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// lsiOf is the IPv4 LSI that n has given a member.
func lsiOf(t *testing.T, n *idloc.Node, name string) string {
	t.Helper()
	addrs, err := n.Resolver().LookupNetIP(t.Context(), "ip4", name)
	if err != nil || len(addrs) != 1 {
		t.Fatalf("LSI of %s: %v, %v", name, addrs, err)
	}
	return addrs[0].Unmap().String()
}

// TestDialErrorAddr: a failed Dial's *net.OpError has the name that was dialled,
// and the LSI behind it, which WhoIs takes.
func TestDialErrorAddr(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	lsi := lsiOf(t, venus, "mars")
	for _, c := range []struct{ network, address, want string }{
		{"tcp", "mars.example.com:81", "mars.example.com:81 (" + lsi + ")"},
		{"tcp4", "mars:http", "mars:http (" + lsi + ")"},
		{"tcp", lsi + ":81", lsi + ":81"},
	} {
		var op *net.OpError
		var stage *idloc.StageError
		err := dialError(t, venus, c.network, c.address)
		if !errors.As(err, &op) || !errors.As(err, &stage) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", c.address, err)
			continue
		}
		if stage.Stage != idloc.StageConnect || stage.Peer != mars.ID() {
			t.Errorf("%s: %+v", c.address, stage)
		}
		if op.Addr == nil || op.Addr.String() != c.want || op.Addr.Network() != "tcp" {
			t.Errorf("%s: Addr is %v, want %s", c.address, op.Addr, c.want)
			continue
		}
		if who, err := venus.WhoIs(op.Addr); err != nil || who.ID != mars.ID() {
			t.Errorf("WhoIs(%v) = %v, %v", op.Addr, who.ID, err)
		}
	}
}

func textsOfConns(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	port := echo(t, mars)
	dial := func(network string) net.Conn {
		c, err := dialTimeout(t, earth, network, "mars:"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	b := make([]byte, 1)
	c := dial("tcp")
	c.SetDeadline(time.Unix(1, 0))
	late := second(c.Read(b))
	lateW := second(c.Write(b))
	c.Close()
	u := dial("udp")
	u.SetDeadline(time.Unix(1, 0))
	lateU := second(u.Read(b))
	big := second(u.Write(make([]byte, 70000)))
	u.Close()
	l, err := earth.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	taken := second(earth.Listen("tcp", ":8080"))
	l.Close()
	check(t,
		provoked{"Read past the deadline", late, `read tcp LSI:PORT->LSI:PORT: i/o timeout`, []error{os.ErrDeadlineExceeded}},
		provoked{"Write past the deadline", lateW, `write tcp LSI:PORT->LSI:PORT: i/o timeout`, []error{os.ErrDeadlineExceeded}},
		provoked{"Read after Close", second(c.Read(b)), `read tcp LSI:PORT->LSI:PORT: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"Write after Close", second(c.Write(b)), `write tcp LSI:PORT->LSI:PORT: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"UDP Read past the deadline", lateU, `read udp LSI:PORT->LSI:PORT: i/o timeout`, []error{os.ErrDeadlineExceeded}},
		provoked{"too big a datagram", big, `write udp LSI:PORT->LSI:PORT: write: message too long`, []error{syscall.EMSGSIZE}},
		provoked{"UDP Read after Close", second(u.Read(b)), `read udp LSI:PORT->LSI:PORT: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"a port in use", taken, `listen tcp :PORT: bind: address already in use`, []error{syscall.EADDRINUSE}},
		provoked{"Accept after Close", second(l.Accept()), `accept tcp \[::\]:PORT: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"another's name", second(earth.Listen("tcp", "mars:80")), `listen tcp mars:80: bind: cannot assign requested address`, []error{syscall.EADDRNOTAVAIL}},
		provoked{"another's address", second(earth.Listen("tcp", "192.0.2.1:80")), `listen tcp 192\.0\.2\.1:80: bind: cannot assign requested address`, []error{syscall.EADDRNOTAVAIL}},
		provoked{"a foreign name", second(earth.Listen("tcp", "www.example.org:80")), `listen tcp: lookup www\.example\.org: not a name of the overlay example\.com`, nil},
		provoked{"UDP for TCP", second(earth.Listen("udp", ":80")), `listen udp: address :80: unexpected address type`, nil},
		provoked{"another family", second(earth.ListenPacket("udp6", "198.18.0.1:80")), `listen udp6: address LSI: no suitable address found`, nil},
	)
}

func textsOfGone(t *testing.T) {
	t.Parallel()
	earth, venus, mars := solar(t)
	port := echo(t, mars)
	tcp, err := dialTimeout(t, venus, "tcp", "mars:"+port)
	if err != nil {
		t.Fatal(err)
	}
	tcp.Close()
	mars.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pinging := func() error { return second(earth.Ping(ctx, "mars")) }
	dialing := func() error { return dialError(t, earth, "tcp", "mars:80") }
	ping, byFounder := async(pinging), async(dialing)
	// Whether the one other member has forgotten mars by the time that it is asked is the
	// machine's; which text tells what is TestUndelivered's, in offers.
	all := []provoked{
		{"an offline peer", dialAnswered(t, venus, "tcp", "mars.example.com:80"), `dial tcp mars\.example\.com:80 \(LSI\): offer: mars\.example\.com is offline: (the 1 member that knew it cannot reach it|no other member knows it, and it does not answer itself)`, []error{idloc.ErrUnreachable}},
		{"an offline peer, for the founder", answered(t, "mars", <-byFounder, dialing), `dial tcp mars:80 \(LSI\): offer: mars\.example\.com is offline: (the 1 member that knew it cannot reach it|no other member knows it, and it does not answer itself)`, []error{idloc.ErrUnreachable}},
		{"Ping of an offline peer", answered(t, "mars", <-ping, pinging), `ping mars: offer: mars\.example\.com is offline: (the 1 member that knew it cannot reach it|no other member knows it, and it does not answer itself)`, []error{idloc.ErrUnreachable}},
	}
	if err := earth.Revoke(ctx, "venus"); err != nil {
		t.Fatal(err)
	}
	all = append(all, provoked{"a revoked peer", dialError(t, earth, "tcp", "venus.example.com:80"), `dial tcp: lookup venus\.example\.com on the overlay's database: no such host: its membership was revoked`, nil})
	earth.Close()
	all = append(all,
		provoked{"a closed node", dialError(t, earth, "tcp", "venus.example.com:80"), `dial tcp venus\.example\.com:80: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"Listen of a closed node", second(earth.Listen("tcp", ":80")), `listen tcp :80: use of closed network connection`, []error{net.ErrClosed}},
		provoked{"Invite of a closed node", second(earth.Invite(idloc.InviteOptions{})), `use of closed network connection`, []error{net.ErrClosed}},
	)
	check(t, all...)
}

func textsOfAlone(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Addrs: ownLoopback(4)}) // where nobody runs afterwards
	mars := join(t, earth, "mars", idloc.Config{})
	token, err := earth.Invite(idloc.InviteOptions{Name: "venus"})
	if err != nil {
		t.Fatal(err)
	}
	earth.Close()
	within(t, "the founder gone", 20*time.Second, func() bool { return mars.Status().Self.Members == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = idloc.Join(ctx, token, idloc.Config{Name: "venus", Addrs: loopback})
	pluto := async(func() error { return dialError(t, mars, "tcp", "pluto.example.com:80") })
	check(t,
		provoked{"Join with nobody there", err, `idloc: no member reached in [\d.]+m?s, 1 member tried at 1 address: ID \(127\.[03]\.0\.[14]:PORT: no answer\); nothing came back over UDP, which is blocked on the way, or nobody runs there: context deadline exceeded`, []error{context.DeadlineExceeded}},
		provoked{"a member with nobody to ask", dialError(t, mars, "tcp", "earth.example.com:80"), `dial tcp earth\.example\.com:80 \(LSI\): offer: no member is connected to ask for it, and it does not answer itself`, nil},
		provoked{"a name with nobody to ask", <-pluto, `dial tcp: lookup pluto\.example\.com on the overlay's database: too few servers answered`, nil},
		provoked{"Leave with nobody there", mars.Leave(t.Context()), `idloc: giving up the name "mars": no member is connected`, nil},
	)
}

func textsOfTokens(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	enter := func(token, name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := idloc.Join(ctx, token, idloc.Config{Name: name, Addrs: loopback})
		if err == nil {
			n.Close()
		}
		return err
	}
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	if err := enter(token, "mars"); err != nil {
		t.Fatal(err)
	}
	another, err := earth.Invite(idloc.InviteOptions{Name: "earth"})
	if err != nil {
		t.Fatal(err)
	}
	b := []byte(token)
	if i := len(b) / 2; b[i] == 'a' {
		b[i] = 'b'
	} else {
		b[i] = 'a'
	}
	check(t,
		provoked{"no token", enter("hello", "x"), `idloc: not an idloc token: it does not begin with "idloc1"`, []error{membership.ErrNotToken}},
		provoked{"an empty token", enter("", "x"), `idloc: not an idloc token: it does not begin with "idloc1"`, []error{membership.ErrNotToken}},
		provoked{"a cut token", enter(token[:len(token)/2], "x"), `idloc: token is damaged: checksum: a character is wrong, missing or too many`, []error{membership.ErrTokenDamaged}},
		provoked{"a changed token", enter(string(b), "x"), `idloc: token is damaged: checksum: a character is wrong, missing or too many`, []error{membership.ErrTokenDamaged}},
		provoked{"a newer token", enter("idloc9"+token[6:], "x"), `idloc: token of a newer version of idloc \("idloc9"\)`, []error{membership.ErrTokenVersion}},
		provoked{"a used token", enter(token, "mars"), `idloc: the token was used already`, []error{membership.ErrUsed}},
		provoked{"a token for a name that is taken", enter(another, ""), `idloc: label taken: "earth"`, nil},
		provoked{"a token for another name", enter(token, "venus"), `idloc: the token was used already`, []error{membership.ErrUsed}},
		provoked{"Invite for no time", second(earth.Invite(idloc.InviteOptions{Expires: -time.Hour})), `idloc: invite: a lifetime that the issuer may not grant: -1h0m0s is over before it begins`, []error{membership.ErrLifetime}},
		provoked{"Invite of two with one name", second(earth.Invite(idloc.InviteOptions{Name: "luna", Uses: 2})), `idloc: invite: not a number of members that an invitation can be for: 2 for "luna"`, []error{membership.ErrUses}},
		provoked{"Invite of one name with no end, twice said", second(earth.Invite(idloc.InviteOptions{Name: "luna", Reuse: true, Uses: 2})), `idloc: invite: not a number of members that an invitation can be for: again and again is for one name, and for no number: 2 for "luna"`, []error{membership.ErrUses}},
		provoked{"Invite with a bad tag", second(earth.Invite(idloc.InviteOptions{Tags: []string{"tag:web"}})), `idloc: invite: not tags that can be given: "tag:web": only a-z, 0-9 and hyphens`, []error{membership.ErrTags}},
		provoked{"grants that the text itself contradicts", earth.SetGrants(t.Context(), "allow earth to open tcp at mars\nexpect mars may open tcp 22 at earth"), `idloc: grants: not as the text itself expects: line 2, "expect mars may open tcp 22 at earth": no rule allows tcp 22`, []error{idloc.ErrExpectation}},
		provoked{"Withdraw of nothing", earth.Withdraw(t.Context(), "0123456789abcdef"), `idloc: withdraw: no such invitation: "0123456789abcdef"`, []error{admission.ErrNoInvitation}},
		provoked{"Invite of a bad name", second(earth.Invite(idloc.InviteOptions{Name: "no_host"})), `idloc: invite: invitation certificate: not a host label: "no_host": only a-z, 0-9 and hyphens`, []error{membership.ErrBadLabel}},
	)
}

func textsOfRights(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	ctx := t.Context()
	check(t,
		provoked{"Invite by a member", second(mars.Invite(idloc.InviteOptions{})), `idloc: invite: refused by policy: only authorities, such as the founder, and delegates can do this`, []error{idloc.ErrRefusedByPolicy, overlay.ErrNotIssuer}},
		provoked{"SetGrants by a member", mars.SetGrants(ctx, ""), `idloc: set grants: refused by policy: only the founder, or another authority, can do this`, []error{idloc.ErrRefusedByPolicy, overlay.ErrNotFounder}},
		provoked{"Revoke by a member", mars.Revoke(ctx, "earth"), `idloc: revoke earth: refused by policy: only the founder, or another authority, can do this`, []error{idloc.ErrRefusedByPolicy, overlay.ErrNotFounder}},
		provoked{"Revoke of the founder", earth.Revoke(ctx, "earth"), `idloc: revoke earth: an authority cannot be revoked: it has to be demoted first`, nil},
		provoked{"Revoke of all below a delegate that is none", earth.Revoke(ctx, "mars", idloc.RevokeDelegated()), `idloc: revoke mars: not known by which invitation it came, or below which delegate`, []error{admission.ErrScope}},
		provoked{"Revoke of nobody", earth.Revoke(ctx, "pluto"), `idloc: revoke pluto: no such name`, nil},
		provoked{"Revoke of another domain", earth.Revoke(ctx, "mars.example.org"), `lookup mars\.example\.org: not a name of the overlay example\.com`, nil},
	)
}

func textsOfAuthorities(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	ctx := t.Context()
	check(t,
		provoked{"Promote by a member", mars.Promote(ctx, "mars"), `idloc: promote mars: refused by policy: only the founder, or another authority, can do this`, []error{idloc.ErrRefusedByPolicy, overlay.ErrNotFounder}},
		provoked{"Promote of the founder", earth.Promote(ctx, "earth"), `idloc: promote earth: the authorities cannot be changed so: this node has the founder's key`, []error{membership.ErrAuthority}},
		provoked{"Demote of nobody", earth.Demote(ctx, "pluto"), `idloc: demote pluto: the authorities cannot be changed so: 0 have the name "pluto", or a key that begins so`, []error{membership.ErrAuthority}},
		provoked{"Demote of the only one", earth.Demote(ctx, "founder"), `idloc: demote founder: the authorities cannot be changed so: 0 would be left, and 1 have to agree`, []error{membership.ErrAuthority}},
		provoked{"a threshold that nobody can reach", earth.SetThreshold(ctx, 2), `idloc: set threshold: the authorities cannot be changed so: 2 of 1`, []error{membership.ErrAuthority}},
		provoked{"unattended for ever", earth.SetUnattended(ctx, 10000*time.Hour), `idloc: set unattended: a lifetime that the issuer may not grant: 10000h0m0s; between 24h0m0s and 9600h0m0s`, []error{membership.ErrLifetime}},
		provoked{"Approve of nothing", earth.Approve(ctx, "0123"), `idloc: approve: no such proposal: 0 have an ID that begins with "0123"`, []error{idloc.ErrNoProposal}},
		provoked{"no recovery line", mars.Recover(ctx, "hello"), `idloc: recover: not a recovery line: it does not begin with "recover1"`, []error{idloc.ErrRecoveryLine}},
	)
	line, err := earth.AddRecovery(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := earth.SetThreshold(ctx, 2); err != nil {
		t.Fatal(err)
	}
	check(t,
		provoked{"a recovery line with a letter wrong", earth.Recover(ctx, line[:len(line)-1]+"?"), `idloc: recover: not a recovery line: it has 32 letters after "recover1", of which some may be wrong`, []error{idloc.ErrRecoveryLine}},
		provoked{"what two have to agree on", earth.SetUnattended(ctx, 48*time.Hour), `idloc: set unattended: other authorities have to approve it: proposal [0-9a-f]{12}, to let members go on for 48h0m0s that hear of no authority, has 1 of 2 signatures`, []error{idloc.ErrPending}},
	)
}

func textsOfConfig(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	create := func(domain string, cfg idloc.Config) error {
		if cfg.Addrs == nil {
			cfg.Addrs = loopback
		}
		n, err := idloc.Create(ctx, domain, cfg)
		if err == nil {
			n.Close()
		}
		return err
	}
	open := func(dir string) error {
		n, err := idloc.Open(ctx, idloc.Config{Dir: dir, Addrs: loopback})
		if err == nil {
			n.Close()
		}
		return err
	}
	dir := filepath.Join(t.TempDir(), "earth")
	if err := create("example.com", idloc.Config{Name: "earth", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(t.TempDir(), "mars")
	found(t, idloc.Config{Dir: locked})
	damaged := filepath.Join(t.TempDir(), "venus")
	if err := create("example.com", idloc.Config{Name: "venus", Dir: damaged}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, "overlay.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t,
		provoked{"Open without Dir", open(""), `idloc: no saved overlay in this directory: Config\.Dir is empty`, []error{idloc.ErrNoState}},
		provoked{"Open of an empty Dir", open(t.TempDir()), `idloc: no saved overlay in this directory: \S+`, []error{idloc.ErrNoState}},
		provoked{"Open of no Dir", open(filepath.Join(dir, "no")), `idloc: no saved overlay in this directory: \S+`, []error{idloc.ErrNoState}},
		provoked{"Open of a Dir in use", open(locked), `idloc: state directory is in use: \S+ is open by process \d+`, nil},
		provoked{"Open of a damaged Dir", open(damaged), `idloc: \S+: state file is damaged: unexpected end of JSON input`, nil},
		provoked{"Create of another domain", create("example.org", idloc.Config{Name: "earth", Dir: dir}), `idloc: the state is of "example\.com", which is not an overlay "example\.org" founded here`, nil},
		provoked{"a bad domain", create("example..com", idloc.Config{Name: "a"}), `idloc: not a domain: "example\.\.com" has the label "": empty`, []error{membership.ErrBadDomain}},
		provoked{"no domain", create("", idloc.Config{Name: "a"}), `idloc: not a domain: "" is empty`, []error{membership.ErrBadDomain}},
		provoked{"a bad policy", create("example.com", idloc.Config{Name: "a", Paths: 77}), `idloc: Config\.Paths: no policy 77`, nil},
		provoked{"a bad null policy", create("example.com", idloc.Config{Name: "a", Null: 77}), `idloc: Config\.Null: no policy 77`, nil},
		provoked{"a bad ICE server", create("example.com", idloc.Config{Name: "a", ICEServers: []string{"turn:host"}}), `idloc: Config\.ICEServers: ICE server "turn:host": a TURN server wants a user and a password: turn:user:password@host:port`, nil},
		provoked{"null and TUN", create("example.com", idloc.Config{Name: "a", TUN: "x", Null: idloc.NullTLS}), `idloc: Config\.Null: null encapsulation with a TUN device: unsupported operation`, []error{errors.ErrUnsupported}},
	)
}

func textsOfNull(t *testing.T) {
	t.Parallel()
	venus, mars := nullPair(t, idloc.NullTLS, 0)
	dial := func(n *idloc.Node, network, address string) error {
		c, err := dialNull(t, n, network, address)
		if err == nil {
			c.Close()
		}
		return err
	}
	check(t,
		provoked{"this node forbids it", dial(mars, "tcp", "venus:80"), `dial tcp venus:80 \(LSI\): offer: refused by policy: null encapsulation is forbidden by this node`, []error{idloc.ErrRefusedByPolicy}},
		provoked{"the peer forbids it", dial(venus, "tcp", "mars.example.com:80"), `dial tcp mars\.example\.com:80 \(LSI\): offer: refused by policy: null encapsulation is forbidden by the peer`, []error{idloc.ErrRefusedByPolicy}},
		provoked{"UDP under TLS", dial(venus, "udp", "mars:80"), `dial udp mars:80 \(LSI\): offer: refused by policy: null encapsulation is forbidden by this node`, []error{idloc.ErrRefusedByPolicy}},
	)
}

func textsOfDialer(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix("198.18.0.0/16")
	earth := found(t, idloc.Config{LSIPrefix: prefix})
	join(t, earth, "mars", idloc.Config{})
	sun, err := idloc.Create(t.Context(), "example.org", idloc.Config{Name: "sun", Addrs: loopback, LSIPrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	defer sun.Close()
	join(t, sun, "mars", idloc.Config{})
	d := &idloc.Dialer{Nodes: []*idloc.Node{earth, sun}}
	dial := func(address string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := d.Dial(ctx, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
	lsi := lsiOf(t, earth, "mars")
	if other := lsiOf(t, sun, "mars"); other != lsi {
		t.Fatalf("the LSIs of the first member of each overlay differ: %s, %s", lsi, other)
	}
	check(t,
		provoked{"outside without Real", dial("www.example.net:80"), `dial tcp www\.example\.net:80: refused by policy: in none of the Dialer's overlays, and Dialer\.Real is nil`, []error{idloc.ErrRefusedByPolicy}},
		provoked{"a label of two overlays", dial("mars:80"), `dial tcp: address mars: members of several overlays have this label: mars\.example\.com, mars\.example\.org`, nil},
		provoked{"an LSI of two overlays", dial(lsi + ":80"), `dial tcp: address LSI: this LSI stands for a peer in several overlays: example\.com, example\.org`, nil},
		provoked{"nobody's LSI", dial("198.18.200.200:80"), `dial tcp: address LSI: an LSI that no node of this Dialer has assigned`, nil},
	)
}
