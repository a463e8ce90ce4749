package idloc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/idloc/idloc/idloc"
)

// HTTP with members: URLs have their names, ports are the overlay's, and the handler
// asks who the request is from.
func ExampleNode_HTTPClient() {
	earth, mars, end := earthAndMars()
	defer end()
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := mars.WhoIsString(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "hello, %s", peer.Name)
	})}
	go server.Serve(l)
	defer server.Close()

	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars/") // or http://mars.example.com/
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(string(b), err)
	// Output: hello, earth.example.com <nil>
}

// What a token is for, before it is used: no node is needed for that, and nobody is
// asked.
func ExampleParseToken() {
	earth, _, end := earthAndMars()
	defer end()
	token, err := earth.Invite(idloc.InviteOptions{Name: "venus", Expires: time.Hour, Relay: true})
	if err != nil {
		log.Fatal(err)
	}

	info, err := idloc.ParseToken(token)
	if err != nil {
		log.Fatal(err) // membership.ErrTokenDamaged, for one: a part of it is missing
	}
	fmt.Println(info.Name, "of", info.Domain)
	fmt.Println("over:", time.Now().After(info.Expires))
	fmt.Println("members:", info.Uses, "relay:", info.Relay, "delegate:", info.Delegate)
	fmt.Println("from the founder:", info.Issuer == idloc.PeerID{})
	// Output:
	// venus of example.com
	// over: false
	// members: 1 relay: true delegate: false
	// from the founder: true
}

// A member whose token got into wrong hands is put out. So is who else came by the
// token, with RevokeInvited. Only authorities can: the founder, and whom it has promoted.
func ExampleNode_Revoke() {
	earth, mars, end := earthAndMars()
	defer end()
	ctx := context.Background()
	if _, err := earth.Ping(ctx, "mars"); err != nil {
		log.Fatal(err)
	}

	if err := earth.Revoke(ctx, "mars", idloc.RevokeInvited()); err != nil {
		log.Fatal(err)
	}
	_, err := earth.Ping(ctx, mars.ID().Label()) // by its ID, which needs no name
	fmt.Println("it is reached:", err == nil)
	// Output: it is reached: false
}

// Events tell what a node does, step by step. Watch begins with its call: what comes
// before the loop is not lost.
func ExampleNode_Watch() {
	earth, _, end := earthAndMars()
	defer end()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := earth.Watch(ctx)
	if _, err := earth.Dial(ctx, "tcp", "mars.example.com:80"); err == nil {
		log.Fatal("nobody listens there")
	}
	for e := range events { // until ctx ends, or the node
		if e.Kind == idloc.EventDialed {
			fmt.Println(e.Name, "failed at:", e.Stage)
			break
		}
	}
	// Output: mars.example.com failed at: connect
}

// The page of a node for a browser, its status as JSON and its metrics for
// Prometheus, below a path of a server of one's own. Who may see it sees the
// members' real addresses: on loopback, or behind what knows its users.
func ExampleNode_Handler() {
	earth, _, end := earthAndMars()
	defer end()
	mux := http.NewServeMux()
	mux.Handle("/overlay/", http.StripPrefix("/overlay", earth.Handler()))
	server := httptest.NewServer(mux) // listens on 127.0.0.1
	defer server.Close()

	resp, err := server.Client().Get(server.URL + "/overlay/status.json")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var status idloc.Status // the same as earth.Status()
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Self.Name, "founder:", status.Self.Founder, "connected:", status.Self.Members)
	// Output: earth.example.com founder: true connected: 1
}
