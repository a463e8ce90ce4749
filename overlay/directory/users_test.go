package directory

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ds "github.com/ipfs/go-datastore"
	record "github.com/libp2p/go-libp2p-record"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// tagged is a confirmed member with tags.
func (o *overlay) tagged(label string, tags ...string) member {
	o.t.Helper()
	seed := sha256.Sum256([]byte(label))
	key := ed25519.NewKeyFromSeed(seed[:])
	id := peerid.ID(key.Public().(ed25519.PublicKey))
	set, err := membership.NewTags(tags)
	if err != nil {
		o.t.Fatal(err)
	}
	chain, err := o.root.Issuer().Issue(id, membership.MemberOptions{Label: label, Serial: 1, Tags: set}, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	return member{key, id, chain, label}
}

// phones are members that may say they have fred, with a few servers.
func phones(t *testing.T, labels ...string) (o *overlay, nodes []*node) {
	o = newOverlay(t)
	for range 3 {
		o.add()
	}
	for _, label := range labels {
		n := o.node(o.tagged(label, "user-fred"))
		n.know()
		nodes = append(nodes, n)
	}
	return o, nodes
}

// at wants a user to be at the members of nodes, in this order.
func (n *node) at(what, user string, want ...*node) {
	n.o.t.Helper()
	found, err := n.LookupUser(n.o.t.Context(), user)
	if len(want) == 0 && !errors.Is(err, ErrNotFound) || len(want) > 0 && err != nil {
		n.o.t.Errorf("%s: %v", what, err)
	}
	var got, wanted []peerid.ID
	for _, f := range found {
		got = append(got, f.Peer)
	}
	for _, w := range want {
		wanted = append(wanted, w.m.id)
	}
	if !slices.Equal(got, wanted) {
		n.o.t.Errorf("%s: at %v, want %v", what, got, wanted)
	}
}

func (n *node) say(user string) {
	n.o.t.Helper()
	if err := n.PublishUser(n.o.t.Context(), user, "q=0.5", naming.MaxUserLife); err != nil {
		n.o.t.Fatal(err)
	}
	time.Sleep(time.Second) // the next is newer
}

// TestUserMoves: a user is where a member says it, until it says otherwise or time is over.
func TestUserMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, nodes := phones(t, "mars", "pluto")
		mars, pluto := nodes[0], nodes[1]
		venus := o.node(o.member("venus"))
		venus.know()
		venus.at("at first", "sip:fred")
		mars.say("sip:fred")
		venus.at("at mars", "sip:fred", mars)
		venus.at("of another service", "xmpp:fred")
		found, _ := venus.LookupUser(t.Context(), "sip:fred")
		if f := found[0]; f.Info != "q=0.5" || f.Expires.Sub(f.Since) != naming.MaxUserLife {
			t.Errorf("%+v", f)
		}
		pluto.say("sip:fred")
		venus.at("two phones", "sip:fred", pluto, mars)
		mars.say("sip:fred")
		venus.at("the first again", "sip:fred", mars, pluto)
		if err := mars.WithdrawUser(t.Context(), "sip:fred"); err != nil {
			t.Fatal(err)
		}
		venus.at("moved to pluto", "sip:fred", pluto)
		mars.at("as mars sees it", "sip:fred", pluto)
		if err := venus.WithdrawUser(t.Context(), "sip:fred"); err != nil {
			t.Errorf("giving up what it had not: %v", err)
		}
		time.Sleep(naming.MaxUserLife + membership.Tolerance)
		venus.at("when it is over", "sip:fred")
		venus.say("sip:venus")
		pluto.at("by the label", "sip:venus", venus)
	})
}

// TestUserSlots: the newest count where there are more members than places, and each is in
// one place.
func TestUserSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		labels := []string{"a", "b", "c", "d", "e", "f"}
		o, nodes := phones(t, labels...)
		for _, n := range nodes {
			n.say("sip:fred")
		}
		reader := o.node(o.member("venus"))
		reader.know()
		want := slices.Clone(nodes[len(nodes)-naming.UserSlots:])
		slices.Reverse(want)
		reader.at("six of them", "sip:fred", want...)
		if err := nodes[0].WithdrawUser(t.Context(), "sip:fred"); err != nil {
			t.Error(err)
		}
		reader.at("one that was put out goes", "sip:fred", want...)
		nodes[0].say("sip:fred")
		reader.at("and comes again", "sip:fred", append([]*node{nodes[0]}, want[:len(want)-1]...)...)
	})
}

// TestUserRace: two members have taken the same place at once. The one that finds the
// other's record there takes another when it says it again.
func TestUserRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, nodes := phones(t, "mars", "pluto")
		mars, pluto := nodes[0], nodes[1]
		mars.say("sip:fred")
		o.putUser(pluto.m, naming.UserRecord{User: "sip:fred", Slot: mars.users.own["sip:fred"].said.Slot})
		mars.at("mars is put out", "sip:fred", pluto, mars) // it still knows of itself
		pluto.at("and not for others", "sip:fred", pluto)
		time.Sleep(time.Second)
		mars.say("sip:fred")
		pluto.at("it has another place", "sip:fred", mars, pluto)
	})
}

// putUser puts a member's record at all servers, as a member can that keeps to no rule.
func (o *overlay) putUser(m member, rec naming.UserRecord) (value []byte) {
	o.t.Helper()
	rec.Seq, rec.Issued, rec.Expires, rec.Chain = naming.Seq(time.Now(), rec.Seq), time.Now(), time.Now().Add(naming.MaxUserLife), m.chain
	value, err := rec.Sign(m.key, o.ov)
	if err != nil {
		o.t.Fatal(err)
	}
	o.setUser(rec, value)
	return value
}

func (o *overlay) setUser(rec naming.UserRecord, value []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.servers {
		s.records[naming.UserKey(o.ov.ID, rec.User, rec.Slot)] = value
	}
}

// TestUserAttacks: what a member, or all servers, may try.
func TestUserAttacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, nodes := phones(t, "mars")
		mars, mallory := nodes[0], o.node(o.tagged("mallory", "user-mallory"))
		mallory.know()
		reader := o.node(o.member("venus"))
		reader.know()

		o.counts()
		if err := mallory.PublishUser(t.Context(), "sip:fred", "", time.Hour); !errors.Is(err, naming.ErrUser) {
			t.Errorf("somebody else's name: %v", err)
		}
		if asks, gives := o.counts(); asks+gives > 0 {
			t.Errorf("others are asked for what cannot be: %d, %d", asks, gives)
		}
		mars.say("sip:fred")
		slot := mars.users.own["sip:fred"].said.Slot
		o.putUser(mallory.m, naming.UserRecord{User: "sip:fred", Slot: (slot + 1) % naming.UserSlots})
		reader.at("servers keep a record that was not granted", "sip:fred", mars)

		key := naming.UserKey(o.ov.ID, "sip:fred", slot)
		old := o.sorted(key)[0].records[key]
		if err := mars.WithdrawUser(t.Context(), "sip:fred"); err != nil {
			t.Fatal(err)
		}
		reader.at("given up", "sip:fred")
		o.setUser(naming.UserRecord{User: "sip:fred", Slot: slot}, old)
		reader.at("servers bring an old record again", "sip:fred")
		o.sorted(key)[0].records[key] = nil
		fresh := o.node(o.member("pluto"))
		fresh.know()
		fresh.at("who never saw the newer believes it until it is over", "sip:fred", mars)
		time.Sleep(naming.MaxUserLife + membership.Tolerance)
		fresh.at("and no longer", "sip:fred")

		// The founder takes the tag away.
		mars.say("sip:fred")
		reader.at("again", "sip:fred", mars)
		reader.users.check.Tags = func(*membership.Member) []string { return nil }
		reader.at("without the tag", "sip:fred")
	})
}

// TestManyUsers is the attack: a member says that it has any number of users. It does not
// put as many, and no server keeps them: what is one too many is refused, and so is the
// hundred-thousandth.
func TestManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := phones(t)
		n := o.node(o.member("mars"))
		n.know()
		n.users.check.Tags = func(*membership.Member) (tags []string) { // the founder has been generous
			for i := range 2 * MaxUsers {
				tags = append(tags, fmt.Sprint(naming.UserTag, "u", i))
			}
			return tags
		}
		n.db.valid = newValidator(n.users.check)
		for i := range MaxUsers {
			n.say(fmt.Sprint("sip:u", i))
		}
		if err := n.PublishUser(t.Context(), fmt.Sprint("sip:u", MaxUsers), "", time.Hour); !errors.Is(err, ErrTooManyUsers) {
			t.Errorf("one too many: %v", err)
		}
		if err := n.WithdrawUser(t.Context(), "sip:u0"); err != nil {
			t.Fatal(err)
		}
		n.say(fmt.Sprint("sip:u", MaxUsers))
		n.at("in the place of one that was given up", fmt.Sprint("sip:u", MaxUsers), n)

		value := o.putUser(n.m, naming.UserRecord{User: "sip:mars"})
		kept, err := proto.Marshal(record.MakePutRecord("key", value))
		if err != nil {
			t.Fatal(err)
		}
		s := newBoundedStore()
		for i := range 2_000 {
			err := s.Put(context.Background(), ds.NewKey(fmt.Sprint(i)), kept)
			if (err == nil) != (i < keptPerMember) {
				t.Fatalf("record %d: %v", i, err)
			}
		}
	})
}

// TestUserUpkeep: a server that comes is given the record as it is given the name.
func TestUserUpkeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, _ := published(t, 3)
		n.say("sip:mars")
		settleRounds(t)
		o.counts()
		p, _ := o.add()
		n.Entered()
		n.heard(p)
		settleRounds(t)
		if _, gives := o.counts(); gives != recordCount+1 || n.lacks(p) {
			t.Errorf("%d records given, want %d", gives, recordCount+1)
		}
		if err := n.Withdraw(t.Context()); err != nil {
			t.Error(err)
		}
		reader := o.node(o.member("venus"))
		reader.know()
		reader.at("its member leaves", "sip:mars")
		n.Stop()
	})
}

// TestUserNoServer: nobody can say that a user is nowhere.
func TestUserNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, nodes := phones(t, "mars")
		for _, s := range o.servers {
			s.away = true
		}
		if _, err := nodes[0].LookupUser(t.Context(), "sip:fred"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("lookup: %v", err)
		}
		var temporary interface{ Temporary() bool }
		if err := nodes[0].PublishUser(t.Context(), "sip:fred", "", time.Hour); !errors.As(err, &temporary) || !temporary.Temporary() {
			t.Errorf("publish: %v", err)
		}
	})
}
