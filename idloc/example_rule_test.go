package idloc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/idloc"
)

// Two authorities of which both have to agree: what one asks for waits until the other
// has approved it. RUNBOOK.md says why there should be a third, or a recovery line.
func ExampleNode_SetThreshold() {
	ctx := context.Background()
	earth, mars, end := earthAndMars()
	defer end()
	if err := earth.Promote(ctx, "mars"); err != nil {
		log.Fatal(err)
	}
	if err := earth.SetThreshold(ctx, 2); err != nil {
		log.Fatal(err)
	}
	err := earth.SetGrants(ctx, "allow everybody to open tcp 80 at earth")
	fmt.Println("earth alone:", err == nil, errors.Is(err, idloc.ErrPending))

	// Members pass on who is an authority, and what waits for them. Here mars looks until it
	// has heard of both; a person would look at the page.
	approved := false
	for !approved {
		for _, p := range mars.Proposals() {
			approved = mars.Approve(ctx, p.ID) == nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("mars:", mars.Grants())
	// Output:
	// earth alone: false true
	// mars: allow everybody to open tcp 80 at earth
}

// A token that was sent to the wrong address is ended before somebody uses it. Who has
// used it already stays a member: Revoke puts them out.
func ExampleNode_Withdraw() {
	ctx := context.Background()
	earth, _, end := earthAndMars()
	defer end()
	token, err := earth.Invite(idloc.InviteOptions{Name: "venus"})
	if err != nil {
		log.Fatal(err)
	}
	if err := earth.Withdraw(ctx, token); err != nil {
		log.Fatal(err)
	}
	_, err = idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
	fmt.Println("it lets in:", err == nil)
	for _, i := range earth.Invitations() {
		fmt.Println(i.Name, "withdrawn:", i.Withdrawn)
	}
	// Unordered output:
	// it lets in: false
	// mars withdrawn: false
	// venus withdrawn: true
}

// Where a user is: fred's phone runs on mars, and whoever wants to call sip:fred asks the
// overlay's database for the member. The tag says that mars may say so.
func ExampleNode_PublishUser() {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer earth.Close()
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars", Tags: []string{"user-fred"}})
	if err != nil {
		log.Fatal(err)
	}
	mars, err := idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer mars.Close()

	if err := mars.PublishUser(ctx, "sip:fred", "port=5060", time.Hour); err != nil { // again before an hour is over
		log.Fatal(err)
	}
	users, err := earth.LookupUser(ctx, "sip:fred")
	if err != nil {
		log.Fatal(err)
	}
	for _, u := range users {
		fmt.Println(u.Peer.Name, u.Info)
	}
	// Output: mars.example.com port=5060
}

// A service of the whole domain: programs that ask this node's resolver for the SIP server
// of example.com find the one that this node runs.
func ExampleNode_OfferSRV() {
	earth, _, end := earthAndMars()
	defer end()
	if err := earth.OfferSRV("_sip._udp", 5060); err != nil {
		log.Fatal(err)
	}
	_, found, err := earth.Resolver().LookupSRV(context.Background(), "sip", "udp", "example.com")
	if err != nil {
		log.Fatal(err)
	}
	for _, srv := range found {
		fmt.Println(srv.Target, srv.Port)
	}
	// Output: earth.example.com. 5060
}

// A program that has a Prometheus registry of its own registers a node's metrics there. With
// two nodes each is told apart by a label.
func ExampleNode_Collector() {
	earth, mars, end := earthAndMars()
	defer end()
	registry := prometheus.NewRegistry()
	for _, n := range []*idloc.Node{earth, mars} {
		prometheus.WrapRegistererWith(prometheus.Labels{"node": n.Name()}, registry).MustRegister(n.Collector())
	}
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "idloc_members" {
			fmt.Println(f.GetHelp())
			for _, m := range f.GetMetric() {
				fmt.Println(m.GetLabel()[0].GetValue(), m.GetGauge().GetValue())
			}
		}
	}
	// Output:
	// Members connected on the peer protocol.
	// earth.example.com 1
	// mars.example.com 1
}
