package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/idloc/idloc/idloc"
)

// onTerminal says whether a person reads out.
func onTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// picture draws what a node knows: itself, and a branch for each other member.
//
//	━━  packets travel directly
//	┅┅  through a member that relays, or a TURN server
//	──  connected for the overlay's own work, no pipe
//	 ×  not connected
func picture(out io.Writer, s gatewayStatus, now time.Time) {
	self := &s.Self
	what := []string{"member"}
	switch {
	case self.Founder:
		what[0] = "founder"
	case self.Authority:
		what[0] = "authority"
	case !self.Confirmed:
		what[0] = "member, not confirmed yet"
	}
	if self.Server {
		what = append(what, "serves the database")
	}
	fmt.Fprintf(out, "%s  %s  %s\n", self.Name, addr(self.LSI4), strings.Join(what, ", "))
	line := func(format string, args ...any) { fmt.Fprintf(out, "│  "+format+"\n", args...) }
	line("UDP port %d at %s", self.Port, cmp.Or(ports(self.Addrs), "no address"))
	switch {
	case self.Alone:
		line("ALONE: no member is reached, trying on: %s", cmp.Or(self.AloneWhy, "none was tried yet"))
	case self.Reached:
		line("reached by members unasked; NAT: %s", cmp.Or(self.NAT, "not known"))
	default:
		line("nobody has come unasked yet; NAT: %s", cmp.Or(self.NAT, "not known"))
	}
	if !self.NotAfter.IsZero() {
		line("membership until %s, %s", self.NotAfter.Local().Format("2006-01-02 15:04"), left(self.NotAfter.Sub(now)))
	}
	for _, at := range s.Serves {
		line("%s", at)
	}
	for _, w := range self.Warnings {
		line("WARNING: %s", w)
	}
	if len(s.Peers) == 0 {
		fmt.Fprintln(out, "╵  no other member is known")
		return
	}
	fmt.Fprintln(out, "│")
	wide := 0
	for _, p := range s.Peers {
		wide = max(wide, utf8.RuneCountInString(shortName(p.Peer)))
	}
	for i, p := range s.Peers {
		branch, stem := "├", "│"
		if i == len(s.Peers)-1 {
			branch, stem = "└", " "
		}
		sign, how := way(s.Status, &p)
		name := shortName(p.Peer)
		fmt.Fprintf(out, "%s%s %s%s  %-14s  %s\n", branch, sign, name, strings.Repeat(" ", wide-utf8.RuneCountInString(name)), addr(p.LSI4), how)
		if p.LastError != "" && !p.Connected {
			fmt.Fprintf(out, "%s     %s  last: %s\n", stem, strings.Repeat(" ", wide), p.LastError)
		}
	}
}

// way says how a peer is reached: a sign of two characters, and words.
func way(s idloc.Status, p *idloc.PeerStatus) (sign, words string) {
	if !p.Connected {
		if p.Contact.Carrier != "" {
			return "──", "connected, no pipe; over TCP, " + p.Contact.Carrier + rtt(p.Contact.RTT)
		}
		if p.Contact.Addr.IsValid() {
			return "──", "connected, no pipe; at " + p.Contact.Addr.String() + rtt(p.Contact.RTT)
		}
		return " ×", "not connected"
	}
	sign, words = "━━", "pipe without a path"
	for _, path := range p.Paths {
		if !path.Active {
			continue
		}
		words = "direct, " + path.Remote.String()
		switch path.Kind {
		case "relayed":
			sign, words = "┅┅", "relayed by "+nameOf(s, path.Via)
		case "turn":
			sign, words = "┅┅", "through a TURN server"
		case "tcp":
			sign, words = "┅┅", "over TCP, "+path.Carrier
		}
	}
	return sign, words + rtt(p.RTT) + fmt.Sprintf("  ↑ %s  ↓ %s", size(p.BytesSent), size(p.BytesReceived))
}

func nameOf(s idloc.Status, id idloc.PeerID) string {
	for _, p := range s.Peers {
		if p.ID == id {
			return shortName(p.Peer)
		}
	}
	return id.String()
}

// shortName is a name, or the end of a peer ID, which is what differs.
func shortName(p idloc.Peer) string {
	if p.Name != "" {
		return p.Name
	}
	id := p.ID.String()
	return "…" + id[max(0, len(id)-8):]
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return "–"
	}
	return a.String()
}

// ports are the addresses of a node's port, without its number.
func ports(all []netip.AddrPort) string {
	var b []string
	for _, a := range all {
		b = append(b, a.Addr().String())
	}
	return strings.Join(b, ", ")
}

func rtt(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < 10*time.Millisecond:
		return fmt.Sprintf("  %.1f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("  %.0f ms", d.Seconds()*1000)
}

// size is a number of bytes in three digits.
func size(n uint64) string {
	v, unit := float64(n), ""
	for _, u := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "" || v >= 99.95 {
		return fmt.Sprintf("%.0f %sB", v, unit)
	}
	return fmt.Sprintf("%.1f %sB", v, unit)
}

// left is how long something lasts.
func left(d time.Duration) string {
	switch {
	case d < 0:
		return "OVER"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min left", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours left", int(d.Hours()))
	}
	return fmt.Sprintf("%d days left", int(d.Hours()/24))
}

// describe says what a token is for.
func describe(out io.Writer, token string, asJSON bool, now time.Time) error {
	info, err := idloc.ParseToken(token)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, info)
	}
	name := "any name that is free in " + info.Domain
	if info.Name != "" {
		name = info.Name + "." + info.Domain
	}
	when := left(info.Expires.Sub(now))
	switch {
	case now.Before(info.From):
		when = "NOT YET: from " + info.From.Local().Format("2006-01-02 15:04")
	case now.After(info.Expires):
		when = "OVER: ask for another"
	}
	fmt.Fprintf(out, "admits     %s: %s\nuntil      %s, %s\n", forMany(info.Uses), name, info.Expires.Local().Format("2006-01-02 15:04"), when)
	may := []string{"dial, listen"}
	if info.Relay {
		may = append(may, "forward data for others")
	}
	if info.Delegate {
		may = append(may, "invite")
	}
	by := "an authority, such as the founder"
	if info.Issuer != (idloc.PeerID{}) {
		by = "a delegate, " + info.Issuer.String()
	}
	fmt.Fprintf(out, "issued by  %s\nID         %s\n", by, info.Invitation)
	fmt.Fprintf(out, "may        %s\nmembers at %s\n", strings.Join(may, ", "), cmp.Or(join(info.Members), "–"))
	if len(info.Tags) > 0 {
		fmt.Fprintf(out, "tags       %s\n", strings.Join(info.Tags, ", "))
	}
	if len(info.Carriers) > 0 {
		fmt.Fprintf(out, "carriers   %s\n", strings.Join(info.Carriers, ", "))
	}
	return nil
}

// forMany says for how many members an invitation is.
func forMany(uses int) string {
	switch uses {
	case idloc.AnyNumber:
		return "any number of members"
	case 1:
		return "one member"
	}
	return fmt.Sprintf("%d members", uses)
}

// listInvitations prints a line for each invitation and one for each that came by it.
func listInvitations(out io.Writer, all []idloc.Invitation, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, i := range all {
		state := left(i.Expires.Sub(now))
		switch {
		case i.Withdrawn:
			state = "withdrawn"
		case now.After(i.Expires):
			state = "over"
		case i.Uses != idloc.AnyNumber && confirmed(i) >= i.Uses:
			state = "used"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.ID, i.Made.Local().Format("2006-01-02 15:04"), cmp.Or(i.Name, "any name"), forMany(i.Uses), state)
		for _, m := range i.Members {
			what := "confirmed"
			if !m.Confirmed {
				what = "not confirmed"
			}
			fmt.Fprintf(w, "\t\t%s\t%s\t\n", cmp.Or(m.Name, m.ID.String()), what)
		}
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "this node has made no invitations")
	}
	return w.Flush()
}

func confirmed(i idloc.Invitation) (n int) {
	for _, m := range i.Members {
		if m.Confirmed {
			n++
		}
	}
	return n
}
