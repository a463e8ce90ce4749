package idloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2"

	"github.com/idloc/idloc/overlay/grants"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nullflow"
)

const (
	// partiesMax bounds the peers of which it is remembered what grants they have.
	partiesMax = 4096
	// partyFor is how long that is.
	partyFor = 10 * time.Second
)

// granting is what this node makes of the overlay's grants.
type granting struct {
	mu   sync.Mutex // held while they change
	kept sync.Map   // flowKey: let on by a rule for new flows only, which is gone

	now     atomic.Pointer[inForce] // nil: none were ever set
	parties *lru.Cache[PeerID, party]
}

// inForce is the grants that are.
type inForce struct {
	number uint64
	text   string
	self   grants.Party
	policy *grants.Policy // nil: err
	guard  *grants.Guard  // nil: everybody may everything, unless there is an err
	err    error          // the text cannot be read here: nobody may open anything
}

// party is a peer as grants see it.
type party struct {
	grants.Party
	in    *inForce // what it was seen by
	until time.Time
}

// flowKey names a flow that a peer has opened.
type flowKey struct {
	peer          PeerID
	network       grants.Network
	local, remote uint16
	null          bool // with null encapsulation
}

// SetGrants says who may open what at whom from now on, in the whole overlay: a text, of
// which the package documentation of overlay/grants tells the form.
//
//	allow tag:web to open tcp 5432 at tag:db
//	allow venus, pluto to open tcp 22 at everybody
//	expect pluto may not open tcp 5432 at tag:db
//	tag mars as db, web
//
// "" allows everything, as before the first SetGrants. A text that cannot be read, or
// whose expectations do not hold, is refused and nothing changes; the error tells each
// line. Members that are connected have it within seconds, others when they come. Each
// enforces it for what is opened at itself: it asks the grants first, and then its own
// Config.Admit, and is a relay only for two of whom one may open something at the other.
// Flows that are open and not allowed any more end, unless their rule says
// "new only": TCP connections are reset, and say netstack.ErrNotAdmitted at the end that
// has accepted them. With Config.TUN those of the host's kernel end to services that listen
// still, where the kernel can be asked to (Linux, SOCK_DESTROY).
//
// Names count that an issuer or an invitation has given, tags as a line of the text says
// them of a name, or else as the certificate has them (InviteOptions.Tags). Delegates give
// names that nobody has, and no tags but their own: what they must not be able to hand out
// is granted to tags.
//
// Only authorities can; others get ErrRefusedByPolicy. Where more than one has to agree it
// is a proposal, with ErrPending (Promote). It waits for nobody else: ctx is not used.
func (n *Node) SetGrants(_ context.Context, text string) error {
	if err := n.alive(); err != nil {
		return err
	}
	p, err := grants.Parse(text, n.ov.Domain())
	if err != nil {
		return fmt.Errorf("idloc: grants: %w", inOneLine{err})
	}
	if failures := p.Failures(); len(failures) > 0 {
		return fmt.Errorf("idloc: grants: %w: %s", ErrExpectation, strings.Join(failures, "; "))
	}
	return n.ended(policy("set grants", n.ov.Roster().SetPolicy(text)))
}

// inOneLine is an error of several lines of grants, in one line of text.
type inOneLine struct{ error }

func (e inOneLine) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }
func (e inOneLine) Unwrap() error { return e.error }

// ErrExpectation: SetGrants, an expectation in the text does not hold for the rules in it.
var ErrExpectation = errors.New("not as the text itself expects")

// Grants returns the text of SetGrants that is in force, as far as this node knows; "" if
// everybody may open everything.
func (n *Node) Grants() string {
	if in := n.granting.now.Load(); in != nil {
		return in.text
	}
	return ""
}

// GrantDecision is an answer of MayOpen.
type GrantDecision struct {
	Allowed bool   `json:"allowed"`
	Why     string `json:"why"` // a sentence, with the line of the rule
}

// MayOpen says whether who may open a port at whom by the grants in force, and why. who
// and whom are names of members, as Dial takes them, or "tag:web" for somebody who has
// just that tag. network is "tcp" or "udp". It asks the database for members that this
// node does not know.
func (n *Node) MayOpen(ctx context.Context, who, network string, port uint16, whom string) (GrantDecision, error) {
	fail := func(err error) (GrantDecision, error) {
		return GrantDecision{}, n.ended(fmt.Errorf("idloc: may open: %w", err))
	}
	if err := n.alive(); err != nil {
		return GrantDecision{}, err
	}
	in := n.granting.now.Load()
	if in != nil && in.err != nil {
		return GrantDecision{Why: in.err.Error()}, nil
	}
	proto, ok := grantNetwork(network)
	if !ok {
		return fail(net.UnknownNetworkError(network))
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	from, err := n.partyNamed(ctx, who)
	if err != nil {
		return fail(err)
	}
	at, err := n.partyNamed(ctx, whom)
	if err != nil {
		return fail(err)
	}
	var p *grants.Policy
	if in != nil {
		p = in.policy
	}
	d := p.Explain(from, at, proto, port)
	return GrantDecision{Allowed: d.Allowed, Why: d.String()}, nil
}

// partyNamed is the member of a name, or somebody with a tag.
func (n *Node) partyNamed(ctx context.Context, name string) (grants.Party, error) {
	if tag, ok := strings.CutPrefix(name, "tag:"); ok {
		tags, err := membership.NewTags([]string{tag})
		return grants.Party{Tags: tags.Words()}, err
	}
	id, _, err := n.resolve(ctx, name)
	if err != nil {
		return grants.Party{}, err
	}
	return n.partyOf(id), nil
}

// partyOf is a peer as the grants in force see it now.
func (n *Node) partyOf(id PeerID) grants.Party {
	var p *grants.Policy
	if in := n.granting.now.Load(); in != nil {
		p = in.policy
	}
	return n.partyIn(p, id)
}

// partyIn is a peer as a policy sees it: with the tags that it says, or else those of its
// certificate.
func (n *Node) partyIn(p *grants.Policy, id PeerID) grants.Party {
	label, tags := n.ov.Roster().Grantee(id)
	if words, ok := p.Tags(label); ok {
		return grants.Party{Name: label, Tags: words}
	}
	return grants.Party{Name: label, Tags: tags.Words()}
}

// tagsOf are those that a peer has, by the grants in force or else by its certificate.
func (n *Node) tagsOf(id PeerID) []string {
	switch in := n.granting.now.Load(); {
	case in == nil:
		return n.ov.Roster().Tags(id).Words()
	case id == n.id:
		return in.self.Tags
	}
	return n.party(id).Tags
}

// memberTags are those that a member has by the grants in force or else by its certificate,
// also one that this node has never met: for what stands in the database.
func (n *Node) memberTags(m *membership.Member) []string {
	in, ov := n.granting.now.Load(), n.late.Load()
	switch {
	case in == nil || ov == nil:
		return m.Tags.Words()
	case in.err != nil:
		return nil
	}
	label, tags := ov.Roster().GranteeOf(m)
	if words, ok := in.policy.Tags(label); ok {
		return words
	}
	return tags.Words()
}

func grantNetwork(network string) (grants.Network, bool) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return grants.TCP, true
	case "udp", "udp4", "udp6":
		return grants.UDP, true
	}
	return 0, false
}

// grantsChanged puts in force what the overlay says now, and ends what is not allowed any
// more.
func (n *Node) grantsChanged() {
	ov := n.late.Load()
	if ov == nil {
		return // start calls it
	}
	g := &n.granting
	g.mu.Lock()
	defer g.mu.Unlock()
	said, was := ov.Roster().Policy(), g.now.Load()
	p, err := grants.Parse(said.Text(), ov.Domain())
	self := n.partyIn(p, n.id)
	if was == nil && said == nil || was != nil && was.number == said.Number() && was.self.String() == self.String() {
		return
	}
	if g.parties == nil {
		g.parties, _ = lru.New[PeerID, party](partiesMax)
	}
	is := &inForce{number: said.Number(), text: said.Text(), self: self, policy: p}
	if err != nil {
		is.err = fmt.Errorf("the overlay's grants, signed %s, cannot be read by this version, so nobody may open anything here: %w", said.At().Format(time.RFC3339), err)
		n.log.Error("grants", "err", is.err)
	} else {
		is.guard = p.At(self)
		n.log.Info("grants", "signed", said.At(), "restricts", is.guard != nil)
	}
	g.now.Store(is)
	n.stack.Ask(n.cfg.Admit != nil || is.restricts())
	if ended := n.recheck(was); ended > 0 {
		n.log.Info("flows have ended that the grants allow no more", "flows", ended)
	}
}

func (in *inForce) restricts() bool { return in != nil && (in.guard != nil || in.err != nil) }

// recheck ends the flows that are not allowed any more, but for those that a rule has let
// on which was for new ones only; was is what was in force when they began, or later.
func (n *Node) recheck(was *inForce) (ended int) {
	kept := map[flowKey]bool{}
	keep := func(f flowKey) bool {
		if n.granted(f.peer, f.network, f.local) {
			return true
		}
		_, before := n.granting.kept.Load(f)
		stays := before || was != nil && was.guard.Keeps(n.partyIn(was.policy, f.peer), f.network, f.local)
		if stays {
			kept[f] = true
		}
		return stays
	}
	ended = n.stack.Recheck(func(network string, local, remote netip.AddrPort) bool {
		peer, ok := n.table.Peer(remote.Addr())
		proto, known := grantNetwork(network)
		return !ok || !known || keep(flowKey{peer, proto, local.Port(), remote.Port(), false})
	})
	ended += n.ov.EndNullFlows(func(f nullflow.Flow) bool {
		proto := grants.TCP
		if f.UDP {
			proto = grants.UDP
		}
		return keep(flowKey{f.Peer, proto, f.Local, f.Remote, true})
	})
	n.granting.kept.Range(func(key, _ any) bool {
		if !kept[key.(flowKey)] {
			n.granting.kept.Delete(key)
		}
		return true
	})
	for key := range kept {
		n.granting.kept.Store(key, nil)
	}
	return ended
}

// granted says whether a peer may open a port here. For a peer that has asked lately it
// allocates nothing.
func (n *Node) granted(peer PeerID, network grants.Network, port uint16) bool {
	in := n.granting.now.Load()
	if !in.restricts() || peer == n.id {
		return true
	}
	return in.err == nil && in.guard.Allows(n.party(peer).Party, network, port)
}

// grants is granted for a flow as Config.Admit is asked about it.
func (n *Node) grants(peer PeerID, network string, local netip.AddrPort) bool {
	proto, ok := grantNetwork(network)
	return ok && n.granted(peer, proto, local.Port())
}

// party is partyOf, remembered for a while. There are grants.
func (n *Node) party(id PeerID) party {
	now, in := time.Now(), n.granting.now.Load()
	if p, ok := n.granting.parties.Get(id); ok && p.in == in && now.Before(p.until) {
		return p
	}
	p := party{n.partyIn(in.policy, id), in, now.Add(partyFor)}
	n.granting.parties.Add(id, p)
	return p
}

// mayMeet says whether the grants let one of two members open anything at the other: else
// this node is no relay for them.
func (n *Node) mayMeet(a, b PeerID) bool {
	in := n.granting.now.Load()
	return !in.restricts() || in.err == nil && in.policy.Meet(n.party(a).Party, n.party(b).Party)
}

// refusedBy is the error of a connect that a peer has refused: if the grants do not allow
// it, it says so.
func (n *Node) refusedBy(peer PeerID, op *net.OpError) error {
	in := n.granting.now.Load()
	to, ok := op.Addr.(*net.TCPAddr)
	if in == nil || in.err != nil || !ok {
		return op.Err
	}
	d := in.policy.Explain(in.self, n.partyOf(peer), grants.TCP, uint16(to.Port))
	if d.Allowed {
		return op.Err
	}
	return fmt.Errorf("%w: %w: %v", op.Err, ErrRefusedByPolicy, d)
}
