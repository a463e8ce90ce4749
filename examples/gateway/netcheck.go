package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/idloc"
)

// finding is one line of netcheck.
type finding struct {
	What   string `json:"what"`
	Result string `json:"result"`
	How    string `json:"how,omitempty"` // how that is known
}

// netReport is what netcheck prints.
type netReport struct {
	Local    []netip.AddrPort `json:"local"`
	Mapped   []netip.AddrPort `json:"mapped"`
	Members  int              `json:"members"`
	NAT      string           `json:"nat"`
	Works    string           `json:"works"`
	Findings []finding        `json:"findings"`
}

// print writes what was found, and below it how that is known.
func (r netReport) print(out io.Writer) {
	fmt.Fprintf(out, "%-15s %s\n", "local addresses", join(r.Local))
	for _, f := range r.Findings {
		fmt.Fprintf(out, "%-15s %s\n", f.What, f.Result)
		if f.How != "" {
			fmt.Fprintf(out, "%-15s   %s\n", "", f.How)
		}
	}
}

// evidence is a Status as the findings read it: all of them judge from the same.
type evidence struct {
	idloc.SelfStatus
	now    time.Time
	peers  []idloc.PeerStatus // that answer: connected on the peer protocol or by a pipe
	names  map[netip.AddrPort]string
	udp    string                // "works", "silent", "unsent", "" not measured
	heard  []netip.AddrPort      // something came back from there, of late
	seen   []idloc.ProbeStatus   // by whom the port was seen from outside, of late
	silent []netip.AddrPort      // nothing came back from there
	unsent []idloc.ProbeStatus   // the system did not send there
	near   bool                  // all that answer are in the same private network, or on this host
	path   map[string]pathOfPeer // by name
}

type pathOfPeer struct {
	idloc.PathStatus
	mtu int
}

// maxAge is how old an answer may be that tells how things are.
const maxAge = 5 * time.Minute

func gather(s idloc.Status, now time.Time) evidence {
	e := evidence{SelfStatus: s.Self, now: now, udp: s.Self.UDP, names: map[netip.AddrPort]string{}, path: map[string]pathOfPeer{}, near: true}
	for _, p := range s.Peers {
		if p.Contact.Addr.IsValid() || p.Contact.Carrier != "" || p.Connected {
			e.addPeer(p)
		}
	}
	for _, p := range s.Self.Probes {
		e.addProbe(p)
	}
	return e
}

// answers notes that somebody answers at an address.
func (e *evidence) answers(a netip.AddrPort) { e.near = e.near && (!a.IsValid() || inside(a.Addr())) }

// addPeer takes a peer that answers.
func (e *evidence) addPeer(p idloc.PeerStatus) {
	e.peers = append(e.peers, p)
	e.names[p.Contact.Addr] = orID(p.Peer)
	e.answers(p.Contact.Addr)
	carried := false
	for _, a := range p.Paths {
		if !p.Connected || !a.Active {
			continue
		}
		e.path[orID(p.Peer)] = pathOfPeer{a, cmp.Or(a.MTU, p.MTU)}
		if a.Carrier != "" {
			carried = true
			continue
		}
		e.answers(a.Remote)
	}
	if p.Contact.Addr.IsValid() || p.Connected && !carried {
		e.udp = "works"
	}
}

// addProbe takes what came of sending to one address; the peers were taken before.
func (e *evidence) addProbe(p idloc.ProbeStatus) {
	switch {
	case p.Heard && e.now.Sub(p.At) < maxAge:
		e.answers(p.Addr)
		e.heard = append(e.heard, p.Addr)
		if p.Seen.IsValid() {
			e.seen = append(e.seen, p)
		}
	case p.Heard || e.names[p.Addr] != "" || slices.Contains(e.silent, p.Addr):
	case p.Error == "":
		e.silent = append(e.silent, p.Addr)
	default:
		e.unsent = append(e.unsent, p)
	}
}

// report says what a node has found out about its network, and how.
func report(s idloc.Status, now time.Time) netReport {
	e := gather(s, now)
	nat, works := e.nat(), e.works()
	findings := []finding{e.overUDP()}
	if len(e.CarriedBy) > 0 {
		findings = append(findings, finding{What: "carriers", Result: "in use, because UDP does not work: " + strings.Join(e.CarriedBy, ", "),
			How: fmt.Sprintf("%d of %d members are connected over TCP only; UDP is tried again every few seconds", e.Carried, e.Members)})
	}
	if s.Self.NAT64.IsValid() {
		findings = append(findings, finding{What: "IPv4", Result: "by the network's NAT64, with the prefix " + s.Self.NAT64.String(),
			How: "this host has no route for IPv4, and its router announces the prefix, or its resolver answers for ipv4only.arpa"})
	}
	return netReport{
		Local: s.Self.Addrs, Mapped: s.Self.Mapped, Members: s.Self.Members, NAT: nat.Result, Works: works.Result,
		Findings: append(findings, nat, e.reachable(), e.mapping(), e.mtu(), e.clock(), e.members(), works),
	}
}

func (e evidence) overUDP() finding {
	f := finding{What: "UDP"}
	var heard []netip.AddrPort
	for _, p := range e.peers {
		if p.Contact.Addr.IsValid() {
			heard = append(heard, p.Contact.Addr)
		}
	}
	for _, a := range e.heard {
		if !slices.Contains(heard, a) {
			heard = append(heard, a)
		}
	}
	port := fmt.Sprintf("from port %d", e.Port)
	silent := ""
	if len(e.silent) > 0 {
		silent = "; none from " + e.list(e.silent)
	}
	switch e.udp {
	case "works":
		if f.Result = "works"; e.near && len(heard) > 0 {
			f.Result = "works within this network; beyond it not measured, because nobody there was asked"
		}
		if len(heard) > 0 {
			f.How = "asked " + port + ", answers came from " + e.list(heard) + silent
		}
	case "silent":
		f.Result = "seems blocked: nothing comes back (or nobody runs at the addresses tried)"
		f.How = "sent " + port + " to " + e.list(e.silent)
	case "unsent":
		f.Result = "cannot be sent by this system"
		if len(e.unsent) > 0 {
			f.How = fmt.Sprintf("%s to %v: %s", port, e.unsent[0].Addr, e.unsent[0].Error)
		}
	default:
		f.Result = "not measured, because no member or server is known to send to"
	}
	return f
}

func (e evidence) nat() finding {
	f := finding{What: "NAT"}
	if e.silenced() {
		f.Result = "not measured, because nothing comes back over UDP"
		return f
	}
	translated := e.NAT != "none"
	var how []string
	for _, p := range e.seen {
		if (p.Seen != p.Local) == translated {
			how = append(how, fmt.Sprintf("%s sees %v as %v", e.name(p.Addr), p.Local, p.Seen))
		}
	}
	f.How = strings.Join(how, "; ")
	switch e.NAT {
	case "none":
		if f.Result = "none: the node's own address is seen from outside"; e.near {
			f.Result = "none on the way to members in the same network; beyond it not measured, because nobody there was asked"
		}
	case "translated":
		f.Result = "there is one; its kind is not measured, because that takes two ports to compare, and only one answers"
	case "endpoint-independent":
		f.Result = "one mapping for all destinations (endpoint-independent)"
	case "endpoint-dependent":
		f.Result = "a mapping for each destination (symmetric)"
	default:
		f.Result = "not measured, because there is nobody to ask"
		if len(e.peers) > 0 {
			f.Result = "not measured, because no member has yet told what it sees"
		}
		f.How = "to judge by the local addresses there is one: they are private"
		if e.global() {
			f.How = "to judge by the local addresses there is none: one of them is global"
		}
	}
	return f
}

func (e evidence) reachable() finding {
	f := finding{What: "from outside"}
	came := fmt.Sprintf("a member at %v, to whom nothing had been sent, connected to %v %s", e.ReachedBy.From, e.ReachedBy.Local, e.ago(e.ReachedBy.At))
	switch {
	case e.silenced():
		f.Result = "not measured, because nothing comes back over UDP"
		if e.Reached {
			f.How = "before that " + came
		}
	case e.open():
		f.Result, f.How = "reachable", came
		if !e.Reached {
			f.How = "a member that nothing had been sent to tried, and came through, " + e.ago(e.DialBack.At)
		}
	case e.Reached:
		f.Result, f.How = "reachable from the same network; from beyond it not measured, because no member there has tried", came
	case e.DialBack.Result == "in vain":
		f.Result = "not reachable: a NAT or firewall lets in only those to whom this node has sent"
		f.How = "another member tried, and did not come through, " + e.ago(e.DialBack.At)
	case e.DialBack.Result == "nobody to try":
		f.Result = "not measured, because only a member to whom this node has not sent can try, and there is none"
	case e.DialBack.Result == "no answer":
		f.Result = "not measured, because the member that was asked to arrange it has not answered"
	case len(e.peers) == 0:
		f.Result = "not measured, because no member is connected that could have others try"
	default:
		f.Result = "not measured, because no other member has tried yet; one is asked half a minute after the start"
	}
	return f
}

func (e evidence) mapping() finding {
	f := finding{What: "port mapping"}
	switch m := e.Ported; {
	case m.Addr.IsValid() && inside(m.Addr.Addr()):
		f.Result = fmt.Sprintf("the router maps %v to this node, which is a private address: another NAT stands before the router", m.Addr)
		f.How = "asked by " + m.Protocol
	case m.Addr.IsValid():
		f.Result, f.How = fmt.Sprintf("the router maps %v to this node", m.Addr), "asked by "+m.Protocol
	case m.Error != "":
		f.Result = "none: " + m.Error
	default:
		f.Result = "not measured, because the router has not answered yet"
	}
	return f
}

func (e evidence) mtu() finding {
	f := finding{What: "path MTU"}
	var all []string
	for _, p := range e.peers {
		name := orID(p.Peer)
		if a, ok := e.path[name]; ok && a.mtu > 0 && a.Carrier == "" {
			head := 28 // IPv4 and UDP
			if a.Remote.Addr().Is6() {
				head = 48
			}
			all = append(all, fmt.Sprintf("%s %d bytes (%d of UDP payload)", name, a.mtu+head, a.mtu))
		}
	}
	if len(all) == 0 {
		f.Result = "not measured, because no pipe is up; gateway ping opens one"
		return f
	}
	f.Result, f.How = few(all), "the largest datagrams that the members have acknowledged so far"
	return f
}

// clockTolerance is how far two members' clocks may differ.
const clockTolerance = 10 * time.Minute

func (e evidence) clock() finding {
	f := finding{What: "clock"}
	off := e.ClockOff.Abs().Round(time.Second)
	way := "ahead of"
	if e.ClockOff < 0 {
		way = "behind"
	}
	switch {
	case e.Clocks == 0:
		f.Result = "not measured, because no member has told what time it has"
		return f
	case !e.clockWrong() && off == 0:
		f.Result = "right, by those of the members met"
	case !e.clockWrong():
		f.Result = fmt.Sprintf("right, by those of the members met: %v %s them", off, way)
	case e.Clocks == 1:
		f.Result = fmt.Sprintf("%v %s that of the one member met: one of the two is wrong", off, way)
	default:
		f.Result = fmt.Sprintf("wrong, by those of the members met: %v %s them", off, way)
	}
	f.How = fmt.Sprintf("%d told the time when they met this node; %v are in order", e.Clocks, clockTolerance)
	return f
}

func (e evidence) clockWrong() bool { return e.Clocks > 0 && e.ClockOff.Abs() > clockTolerance }

func (e evidence) members() finding {
	f := finding{What: "members"}
	if len(e.peers) == 0 {
		if f.Result = "none is known: this node is alone"; e.udp == "works" {
			f.Result = "none has let this node in"
		} else if len(e.silent)+len(e.unsent) > 0 || e.Alone {
			f.Result = "none answers"
		}
		f.How = e.AloneWhy
		return f
	}
	var all []string
	for _, p := range e.peers {
		text := orID(p.Peer)
		if rtt := cmp.Or(p.RTT, p.Contact.RTT); rtt > 0 {
			text += " in " + rtt.Round(10*time.Microsecond).String()
		}
		if a, ok := e.path[orID(p.Peer)]; ok {
			text += ", " + a.Kind + " pipe"
		}
		all = append(all, text)
	}
	f.Result, f.How = fmt.Sprintf("%d answer", len(e.peers)), few(all)
	if len(e.peers) == 1 {
		f.Result = "1 answers"
	}
	return f
}

// works concludes what pipes will come up.
func (e evidence) works() finding {
	f := finding{What: "what will work"}
	ported := e.Ported.Addr.IsValid() && !inside(e.Ported.Addr.Addr())
	switch {
	case e.silenced() && e.Carried > 0:
		f.Result = "pipes over TCP through members that serve carriers, while UDP does not get through"
	case e.silenced():
		f.Result = "nothing, while UDP does not get through, and no member is reached that serves carriers"
	case len(e.peers) == 0 && e.clockWrong():
		f.Result = "nothing before the clocks agree: what one makes is over, or not begun, for the other"
	case len(e.peers) == 0 && e.udp == "works":
		f.Result = "nothing yet, because no member has let this node in"
	case len(e.peers) == 0:
		f.Result = "not measured, because no other member was there yet"
	case e.open():
		f.Result = "direct pipes to every member that can send UDP"
	case ported:
		f.Result = "direct pipes to every member that can send UDP, if the router does what it said"
	case e.NAT == "none" && e.near:
		f.Result = "direct pipes in this network; beyond it not measured, because nobody there was asked"
	case e.NAT == "none" && e.DialBack.Result == "in vain":
		f.Result = "direct pipes to members that are not behind a symmetric NAT; to others some seconds later, by guessed ports, or through a member that relays"
	case e.NAT == "none":
		f.Result = "direct pipes to every member that can send UDP, unless a firewall stands before this node"
	case e.NAT == "endpoint-independent":
		f.Result = "direct pipes to members that are not behind a symmetric NAT; to others some seconds later, by guessed ports, or through a member that relays"
	case e.NAT == "translated":
		f.Result = "direct pipes to most members; others need a member that relays"
	case e.NAT == "endpoint-dependent":
		f.Result = "direct pipes to members that are reachable from outside, or whose NAT lets in whoever knows the address; to others some seconds later, by guessed ports, unless their NAT is symmetric too: such others need a member that relays"
	default:
		f.Result = "pipes to the members that answer; which others are reached directly is not measured, because the NAT is not"
	}
	return f
}

// silenced: UDP does not get through.
func (e evidence) silenced() bool { return e.udp == "silent" || e.udp == "unsent" }

// open: a stranger from outside the own network gets in.
func (e evidence) open() bool {
	return e.Reached && !inside(e.ReachedBy.From.Addr()) || !e.Reached && e.DialBack.Result == "reached"
}

// global says whether the node has an address that means the same everywhere.
func (e evidence) global() bool {
	return slices.ContainsFunc(e.Addrs, func(a netip.AddrPort) bool { return a.Addr().IsGlobalUnicast() && !inside(a.Addr()) })
}

var carrierGrade = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// inside says whether an address is of a private network or of this host.
func inside(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || carrierGrade.Contains(a)
}

func (e evidence) name(a netip.AddrPort) string {
	if name := e.names[a]; name != "" {
		return name
	}
	return a.String()
}

func (e evidence) list(all []netip.AddrPort) string {
	var out []string
	for _, a := range all {
		text := a.String()
		if name := e.names[a]; name != "" {
			text += " (" + name + ")"
		}
		out = append(out, text)
	}
	return few(out)
}

func (e evidence) ago(t time.Time) string {
	if t.IsZero() {
		return "at a time not noted"
	}
	return max(0, e.now.Sub(t)).Round(time.Second).String() + " ago"
}

// few lists the first ones.
func few(all []string) string {
	const most = 8
	if n := len(all); n > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", n-most)
	}
	return strings.Join(all, ", ")
}
