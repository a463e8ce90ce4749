package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// answers has a ship give one answer to all requests of a protocol.
func (s *ship) answers(pr Protocol, answer []byte, err error) {
	s.Serve(pr, func(context.Context, *membership.Member, []byte) ([]byte, error) { return answer, err })
}

// A list of members that cannot be read, or that says what it must not, leaves what is
// known as it was; what is good in one is taken.
func TestListsThatLie(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, liar := f.launch(), f.launch()
	a.meet(liar)
	entry := func(id peerid.ID, addrs ...[]byte) []byte {
		b := append(id[:], 0, byte(len(addrs)))
		for _, addr := range addrs {
			b = append(append(b, byte(len(addr))), addr...)
		}
		return append(b, 0, 0) // no record
	}
	good := testAddrs(7)[0].Bytes()
	oversized := entry(testID(5), good)
	binary.BigEndian.PutUint16(oversized[len(oversized)-2:], 0xffff) // a record of 64 KiB that is not there
	for name, c := range map[string]struct {
		answer []byte
		err    error
		knows  []peerid.ID
	}{
		"nothing":             {nil, nil, nil},
		"an error":            {nil, errors.New("no"), nil},
		"more than it holds":  {append([]byte{3}, entry(testID(1), good)...), nil, nil},
		"too many":            {append([]byte{peersMax + 1}, entry(testID(1), good)...), nil, nil},
		"a record of nothing": {append([]byte{1}, oversized...), nil, nil},
		"no address":          {append([]byte{1}, entry(testID(1))...), nil, nil},
		"no real address":     {append([]byte{1}, entry(testID(1), []byte("who knows"))...), nil, nil},
		"the asker itself":    {append([]byte{1}, entry(a.id, good)...), nil, nil},
		"the teller itself":   {append([]byte{1}, entry(liar.id, good)...), nil, nil},
		"one good, one bad":   {append(append([]byte{2}, entry(testID(1), []byte{9, 9}, good)...), entry(testID(2), []byte("x"))...), nil, []peerid.ID{testID(1)}},
	} {
		liar.answers(peersProtocol, c.answer, c.err)
		if !a.AskPeers(t.Context()) {
			t.Fatalf("%s: nobody was asked", name)
		}
		var told []peerid.ID
		for _, p := range a.known.List() {
			if !p.By.IsZero() {
				told = append(told, p.Peer)
				a.known.Forget(p.Peer)
			}
		}
		if fmt.Sprint(told) != fmt.Sprint(c.knows) {
			t.Errorf("%s: %v", name, told)
		}
	}
	if _, ok := a.Member(liar.peer()); !ok {
		t.Error("a list ends the connection")
	}
}

// A member may tell so much unasked, and no more: the rest is refused, and told again
// later is taken.
func TestNoticesAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &Mesh{met: rate.NewLimiter(metRate, metBurst), arrived: make(chan struct{}, 1)}
		from := &membership.Member{Peer: testID(1)}
		taken := func() (n int) {
			for range 3 * metBurst {
				_, err := m.answerMet(t.Context(), from, []byte{0})
				if err == nil {
					n++
				} else if !errors.Is(err, errTooOften) {
					t.Fatal(err)
				}
			}
			return n
		}
		if n := taken(); n != metBurst {
			t.Errorf("%d at once", n)
		}
		time.Sleep(time.Second)
		if n := taken(); n != metRate {
			t.Errorf("%d in a second", n)
		}
		time.Sleep(time.Hour)
		if _, err := m.answerMet(t.Context(), from, []byte{200}); err == nil || errors.Is(err, errTooOften) {
			t.Errorf("a notice that cannot be read: %v", err)
		}
	})
}

// What a member says of a dial-back is what it may say, or no answer.
func TestDialBackAnswers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, liar := f.launch(), f.launch()
	a.meet(liar)
	for name, c := range map[string]struct {
		answer []byte
		err    error
		want   string
	}{
		"somebody came": {[]byte{dialBackDone}, nil, DialBackReached},
		"in vain":       {[]byte{dialBackInVain}, nil, DialBackInVain},
		"nobody":        {[]byte{dialBackNobody}, nil, DialBackNobody},
		"unknown":       {[]byte{77}, nil, DialBackNoAnswer},
		"nothing":       {nil, nil, DialBackNoAnswer},
		"too much":      {[]byte{1, 1}, nil, DialBackNoAnswer},
		"a refusal":     {nil, errTooOften, DialBackNoAnswer},
	} {
		liar.answers(dialBackProtocol, c.answer, c.err)
		a.backs.set(DialBack{})
		a.backs.mu.Lock()
		a.backs.asked = time.Time{}
		a.backs.mu.Unlock()
		a.AskDialBack()
		await(t, "what came of it", func() bool { return a.DialledBack().Result != "" })
		if got := a.DialledBack(); got.Result != c.want || got.Decided() != (c.want == DialBackReached || c.want == DialBackInVain) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A dial-back is asked for now and then, however often somebody would like one.
func TestDialBackDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d dialBacks
		for range 3 {
			if !d.due() || d.due() {
				t.Error("not due, or twice")
			}
			time.Sleep(dialBackEvery - time.Nanosecond)
			if d.due() {
				t.Error("due too soon")
			}
			time.Sleep(time.Nanosecond)
		}
	})
}

// Whoever asks to be dialled back may name many addresses, or somebody who is
// connected: nobody is dialled then.
func TestDialBackQuestions(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	from := b.Members()[0].Member
	question := func(id peerid.ID, n int, addrs ...ma.Multiaddr) []byte {
		q := append(append([]byte{0}, id[:]...), byte(n))
		for _, addr := range addrs {
			q = append(append(q, byte(len(addr.Bytes()))), addr.Bytes()...)
		}
		return q
	}
	many := make([]ma.Multiaddr, dialBackAddrs+1)
	for i := range many {
		many[i] = testAddrs(i)[0]
	}
	for name, q := range map[string][]byte{
		"empty": nil, "no address": question(testID(9), 0), "too many": question(testID(9), len(many), many...),
		"fewer than it says": question(testID(9), 3, many[0]), "one that is connected": question(a.id, 1, many[0]),
		"no real address": append(question(testID(9), 1), 3, 1, 2, 3),
	} {
		if got, err := b.answerDialBack(t.Context(), from, q); err != nil || string(got) != string([]byte{dialBackNobody}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// What is remembered of attempts has a bound, and says so much of it as a line takes.
func TestAttemptsBounded(t *testing.T) {
	t.Parallel()
	var a attempts
	at := func(i int) peer.AddrInfo {
		return peer.AddrInfo{ID: peer.ID(fmt.Sprint("peer ", i)), Addrs: testAddrs(i % 200)}
	}
	for i := range 20 {
		a.note(at(i), context.DeadlineExceeded, false)
	}
	text := a.text()
	for _, part := range []string{"20 members tried at 20 addresses", "and 12 more", "nothing came back over UDP"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in %q", part, text)
		}
	}
	a.note(at(3), errors.New("refused by the host"), false)
	if text := a.text(); strings.Contains(text, "nothing came back") || !strings.Contains(text, "refused by the host") {
		t.Errorf("%q", text)
	}
	if a.final() != nil {
		t.Error("given up for good, by nobody's word")
	}
	for i := range 3 * attemptsMax {
		a.note(at(i), context.DeadlineExceeded, false)
		if len(a.last) > attemptsMax || len(a.order) != len(a.last) {
			t.Fatalf("%d are remembered, %d in order", len(a.last), len(a.order))
		}
	}
}

// What an address of another member is worth, to this peer and to others.
func TestKindOf(t *testing.T) {
	t.Parallel()
	const in, out = network.DirInbound, network.DirOutbound
	for _, c := range []struct {
		what   nat.Kind
		dir    network.Direction
		others bool
		want   nat.Kind
	}{
		{nat.Global, out, false, nat.Proven}, {nat.Global, out, true, nat.Proven},
		{nat.Global, in, false, nat.Mapped}, {nat.Global, in, true, nat.Mapped},
		{nat.Uplink, out, false, nat.Proven}, {nat.Uplink, out, true, nat.Uplink}, {nat.Uplink, in, false, nat.Uplink},
		{nat.Loopback, out, false, nat.Proven}, {nat.Loopback, out, true, nat.Loopback}, {nat.Loopback, in, false, nat.Loopback},
	} {
		if got := kindOf(c.what, c.dir, c.others); got != c.want {
			t.Errorf("%v, %v, for others %v: %v, not %v", c.what, c.dir, c.others, got, c.want)
		}
	}
	addrs := p2p.Parse([]string{"/ip4/192.168.1.1/udp/1/quic-v1", "/ip4/203.0.113.1/udp/1/quic-v1", "/dns4/example.com/udp/1", "/ip4/127.0.0.1/udp/1/quic-v1"})
	if got := BestOf(addrs, 2); len(got) != 2 || !got[0].Equal(addrs[1]) || !got[1].Equal(addrs[0]) {
		t.Errorf("the best two: %v", got)
	}
	if got := BestOf(addrs, 10); len(got) != 3 {
		t.Errorf("all that are any: %v", got)
	}
}

// line is a connection that has come in from one address at another.
type line struct {
	network.Conn
	from, local string
	opened      time.Time
}

func (l line) RemoteMultiaddr() ma.Multiaddr { return p2p.QUIC(netip.MustParseAddrPort(l.from)) }
func (l line) LocalMultiaddr() ma.Multiaddr  { return p2p.QUIC(netip.MustParseAddrPort(l.local)) }
func (l line) Stat() network.ConnStats {
	return network.ConnStats{Stats: network.Stats{Opened: l.opened}}
}

// Who has reached this peer from the internet proves more than somebody of the same
// private network, whoever comes last.
func TestReachNotes(t *testing.T) {
	t.Parallel()
	const outside, inside, outside2 = "203.0.113.1:1", "192.168.1.2:1", "198.51.100.1:1"
	for _, c := range []struct {
		from []string
		want string
	}{
		{nil, "invalid AddrPort"}, {[]string{inside}, inside}, {[]string{inside, outside}, outside},
		{[]string{outside, inside}, outside}, {[]string{outside, inside, outside2}, outside2},
	} {
		var r Reach
		for _, from := range c.from {
			r.note(line{from: from, local: "192.168.1.1:7"})
		}
		if r.From.String() != c.want || r.Unasked() != (len(c.from) > 0) {
			t.Errorf("%v: %v", c.from, r.From)
		}
	}
}

// Who waits on a member's connection hears when it has come in by a newer one, and not
// when by an older one, and when it is gone.
func TestDoorLatest(t *testing.T) {
	t.Parallel()
	now := time.Now()
	d := &door{gone: make(chan struct{})}
	wait := func() context.Context {
		d.latest, d.endLatest = context.WithCancel(context.Background())
		return d.latest
	}
	d.replace(line{opened: now})
	first := wait()
	if d.replace(line{opened: now.Add(-time.Second)}); first.Err() != nil || d.newest.Stat().Opened != now {
		t.Error("an older connection is the newest")
	}
	if d.replace(line{opened: now.Add(time.Second)}); first.Err() == nil || d.latest != nil {
		t.Error("a newer connection is not told")
	}
	last := wait()
	d.end()
	if last.Err() == nil {
		t.Error("that it is gone is not told")
	}
	<-d.gone
}

// Without a connection there is no stream, and none is opened to a peer that the gate
// does not know.
func TestNoStream(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	if _, err := openStream(t.Context(), a.Host(), b.peer(), "/x"); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("%v", err)
	}
	if _, err := a.Ask(t.Context(), b.peer(), echo, nil); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("%v", err)
	}
	a.meet(b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Ask(ctx, b.peer(), echo, nil); err == nil {
		t.Error("asked after the end of the question")
	}
	if _, err := a.Ask(t.Context(), b.peer(), echo, nil); err == nil { // b serves no such protocol
		t.Error("answered by nobody")
	}
	if _, ok := a.Member(b.peer()); !ok {
		t.Error("a question in vain ends the connection")
	}
}
