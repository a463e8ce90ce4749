package directory

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// TestRoleSpread: an office that came at once does not become servers at once;
// a few peers wait no longer than they must.
func TestRoleSpread(t *testing.T) {
	const n, known = 200, 32
	soon := 0
	for i := range n {
		r := &role{draw: float64(i) / n, drawn: true}
		if d := r.after(FewServers); d != ServerAfter {
			t.Errorf("one of a few after %v", d)
		}
		d := r.after(known)
		if d < ServerAfter || d > ServerAfter+roleSpreadMax {
			t.Errorf("after %v", d)
		}
		if d < ServerAfter+hearsAfter {
			soon++
		}
	}
	if soon < FewServers || soon > n/8 {
		t.Errorf("%d of %d become servers before they can hear of each other", soon, n)
	}
}

// TestDecideRole: when this peer becomes a server, by who is there and how long it
// has been up; and when it has others try whether it is reached.
func TestDecideRole(t *testing.T) {
	for _, tt := range []struct {
		what     string
		up       time.Duration
		servers  int  // connected
		clients  int  // connected members that are none
		first    bool // this peer's ID is the smallest
		reached  bool // unasked
		coming   bool // it has not entered yet
		server   bool // it becomes one
		soon     bool // to be asked again soon
		dialBack bool // it asks for one
	}{
		{what: "alone", up: time.Hour, dialBack: true},
		{what: "just begun, with servers", up: ServerAfter - 1, servers: 1},
		{what: "up, with one server", up: ServerAfter, servers: 1, server: true},
		{what: "up, with enough servers", up: ServerAfter, servers: FewServers, dialBack: true},
		{what: "up, with enough servers, reached", up: ServerAfter, servers: FewServers, reached: true, server: true},
		{what: "just begun, reached", up: ServerAfter - 1, servers: FewServers, reached: true},
		{what: "no server left, the first", up: 0, clients: 2, first: true, server: true},
		{what: "no server seen, coming in", up: ServerAfter, clients: 2, first: true, coming: true, soon: true},
		{what: "no server left, not the first", up: 0, clients: 2, soon: true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				for range tt.servers {
					o.add()
				}
				n := o.node(o.member("mars"))
				defer n.Stop()
				for range tt.clients {
					n.mesh.addClient(!tt.first)
				}
				asked := false
				n.cfg.Remembered = func() int { return tt.servers + tt.clients }
				n.cfg.Reached = func() bool { return tt.reached }
				n.role.entered.Store(!tt.coming)
				n.cfg.AskDialBack = func() { asked = true }
				n.cfg.DialedBack = func() bool { return false }
				n.role.started, n.role.drawn = time.Now(), true
				time.Sleep(tt.up)
				soon := n.DecideRole()
				server, young := n.Serving()
				if server != tt.server || soon != tt.soon || asked != tt.dialBack || young != tt.server {
					t.Errorf("server %v (young %v), soon %v, dial-back %v", server, young, soon, asked)
				}
				if greeted := n.mesh.greetings() > 0; greeted != tt.server {
					t.Errorf("told the others: %v", greeted)
				}
			})
		})
	}
}

// TestOneTokenIsOneServer is the attack: many servers are connected, all by one token, or by
// those of one delegate. A peer that came by another token becomes a server as where there are
// few; one that came by the same does not.
func TestOneTokenIsOneServer(t *testing.T) {
	for _, c := range []struct {
		what string
		of   func(n int) membership.Member
		own  membership.Member
		will bool
	}{
		{"one token, not its own", func(int) membership.Member { return membership.Member{Invitation: membership.Key{1}} },
			membership.Member{Invitation: membership.Key{2}}, true},
		{"its own token", func(int) membership.Member { return membership.Member{Invitation: membership.Key{1}} },
			membership.Member{Invitation: membership.Key{1}}, false},
		{"one delegate", func(n int) membership.Member {
			return membership.Member{Invitation: membership.Key{1, byte(n)}, Inviter: membership.Key{1}}
		}, membership.Member{Invitation: membership.Key{2}}, true},
		{"its own delegate", func(n int) membership.Member {
			return membership.Member{Invitation: membership.Key{1, byte(n)}, Inviter: membership.Key{1}}
		}, membership.Member{Invitation: membership.Key{2}, Inviter: membership.Key{1}}, false},
		{"tokens of their own", func(n int) membership.Member { return membership.Member{Invitation: membership.Key{1, byte(n)}} },
			membership.Member{Invitation: membership.Key{2}}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				n := o.node(o.member("mars"))
				defer n.Stop()
				for i := range 20 {
					p, _ := o.add()
					m := c.of(i)
					m.Peer = fromPeer(p)
					n.roster.Note(&m)
				}
				n.roster.account = c.own.Account()
				n.cfg.Reached, n.cfg.DialedBack = func() bool { return false }, func() bool { return false }
				n.cfg.AskDialBack = func() {}
				n.cfg.Remembered = func() int { return 0 }
				n.role.started = time.Now()
				time.Sleep(ServerAfter)
				n.DecideRole()
				if server, _ := n.Serving(); server != c.will {
					t.Errorf("a server: %v", server)
				}
			})
		})
	}
}

// TestTakeOverInTurn: who is not the first leaves the database to that for a while,
// and takes it over if nobody has; a server that comes meanwhile ends that.
func TestTakeOverInTurn(t *testing.T) {
	for _, comes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOverlay(t)
			n := o.node(o.member("mars"))
			defer n.Stop()
			n.cfg.Reached, n.cfg.AskDialBack = func() bool { return false }, func() {}
			n.role.started = time.Now()
			n.mesh.addClient(true)
			if !n.DecideRole() || n.db.isServer() {
				t.Fatal("at once")
			}
			if comes {
				time.Sleep(TakeOverPatience / 2)
				o.add()
				if n.DecideRole() {
					t.Error("a server has come, and it is still in a hurry")
				}
			}
			time.Sleep(3 * TakeOverPatience)
			if n.DecideRole(); n.db.isServer() == comes {
				t.Errorf("a server came %v, this one is one %v", comes, n.db.isServer())
			}
		})
	}
}

// TestTakeOverFirst: who is the first of many takes the database over after a second, unless
// a server comes back in it; one that is heard is waited for, but not for ever.
func TestTakeOverFirst(t *testing.T) {
	for _, heard := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOverlay(t)
			n := o.node(o.member("mars"))
			defer n.Stop()
			n.cfg.Reached, n.cfg.AskDialBack = func() bool { return false }, func() {}
			n.cfg.ServerHeard = func() bool { return heard }
			n.cfg.Remembered = func() int { return manyMembers }
			n.role.started = time.Now()
			n.mesh.addClient(false)
			want := TakeOverPatience / 2
			if heard {
				want = 3 * TakeOverPatience
			}
			for _, at := range []time.Duration{0, want - 1} {
				if time.Sleep(at); !n.DecideRole() || n.db.isServer() {
					t.Fatalf("heard %v: a server after %v", heard, at)
				}
			}
			time.Sleep(time.Nanosecond)
			if n.DecideRole(); !n.db.isServer() {
				t.Errorf("heard %v: no server after %v", heard, want)
			}
		})
	}
}

// TestTakeOverOfMany: of an office that has lost its only server few take the database
// over in the time in which they hear of each other, and one soon.
func TestTakeOverOfMany(t *testing.T) {
	const office = 200
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("mars"))
		defer n.Stop()
		n.cfg.Remembered = func() int { return office }
		n.cfg.ServerHeard = func() bool { return false }
		for _, first := range []bool{false, true} {
			n.mesh.addClient(!first)
			members := n.cfg.Mesh.Neighbors()
			if first {
				members = members[1:]
			}
			at := func(since time.Duration) (servers int) {
				for i := range office {
					n.role.draw, n.role.drawn = float64(i)/office, true
					if !n.leavesIt(members, since) {
						servers++
					}
				}
				return servers
			}
			if few := at(3 * TakeOverPatience); few < 1 || few > 4 {
				t.Errorf("first %v: %d servers after %v", first, few, 3*TakeOverPatience)
			}
			if all := at(TakeOverPatience * office); all != office {
				t.Errorf("first %v: %d of %d in the end", first, all, office)
			}
		}
	})
}

// TestServerStays: a server is one for good, young once, and tells its members.
func TestServerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("mars"))
		defer n.Stop()
		n.Serve()
		time.Sleep(YoungFor - 1)
		if server, young := n.Serving(); !server || !young {
			t.Errorf("at first: server %v, young %v", server, young)
		}
		time.Sleep(time.Nanosecond)
		n.Serve() // it is one
		if server, young := n.Serving(); !server || young {
			t.Errorf("then: server %v, young %v", server, young)
		}
		asked := false
		n.cfg.Reached, n.cfg.DialedBack = func() bool { return false }, func() bool { return false }
		n.cfg.AskDialBack = func() { asked = true }
		if n.role.started = time.Now().Add(-ServerAfter); n.DecideRole() || !asked {
			t.Errorf("a server that nobody has reached asks for a dial-back: %v", asked)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("earth"))
		defer n.Stop()
		n.ServeNew()
		if server, young := n.Serving(); !server || young {
			t.Errorf("the founder of a new overlay: server %v, young %v", server, young)
		}
		n.cfg.Remembered = func() int { return 0 }
		n.Publish(t.Context())
		if f, err := n.Resolve(t.Context(), "earth"); err != nil || f.Peer != n.m.id {
			t.Errorf("its own name: %v, %v", f, err)
		}
		key := naming.Keys(o.ov.ID, "earth")[0]
		if rec, err := n.db.local.Get(t.Context(), key); err != nil || rec == nil {
			t.Errorf("its own record is not in its part of the database: %v, %v", rec, err)
		}
	})
}
