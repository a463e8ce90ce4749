package idloc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
)

// These run in go test, on the loopback interface of this machine. Elsewhere
// Config.Addrs stays empty, and a node uses all addresses that there are.
var onLoopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// earthAndMars are two members, made as the package's example makes them.
func earthAndMars() (earth, mars *idloc.Node, end func()) {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		log.Fatal(err)
	}
	mars, err = idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	return earth, mars, func() { mars.Close(); earth.Close() }
}

// Two members: earth founds the overlay and invites mars, mars listens, and
// earth dials it by name. In life each stands in a program of its own, on
// machines of their own, and the token gets from one to the other as a password
// would.
func Example() {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer earth.Close()
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		log.Fatal(err)
	}

	mars, err := idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer mars.Close()
	l, err := mars.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintln(c, "you have reached", mars.Name())
	}()

	c, err := earth.Dial(ctx, "tcp", "mars.example.com:7")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	fmt.Print(string(b), err, "\n")
	// Output:
	// you have reached mars.example.com
	// <nil>
}

// What goes wrong is told apart by errors.Is and errors.As, as in package net.
func ExampleNode_Dial() {
	earth, _, end := earthAndMars()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	for _, address := range []string{"pluto.example.com:80", "mars.example.com:80"} {
		_, err := earth.Dial(ctx, "tcp", address)
		var name *net.DNSError
		var stage *idloc.StageError
		switch {
		case errors.As(err, &name) && name.IsNotFound:
			fmt.Println(address, "- nobody has this name")
		case errors.As(err, &name):
			fmt.Println(address, "- not known whether anybody has it")
		case errors.Is(err, idloc.ErrUnreachable):
			fmt.Println(address, "- it is off, or no path leads to it: try later")
		case errors.As(err, &stage):
			fmt.Println(address, "- reached, but:", stage)
		}
	}
	// Output:
	// pluto.example.com:80 - nobody has this name
	// mars.example.com:80 - reached, but: connect: connection refused
}

// A server that echoes lines. Its conns are a net.Conn each, and an
// idloc.TCPConn for who wants more.
func ExampleNode_Listen() {
	earth, mars, end := earthAndMars()
	defer end()
	l, err := mars.Listen("tcp", ":0") // 0 chooses a free port
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // net.ErrClosed once the listener or the node was closed
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()

	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, err := earth.Dial(context.Background(), "tcp", "mars:"+port) // the label alone will do
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Printf("%q %v\n", line, err)
	fmt.Println(c.(idloc.TCPConn).SetUserTimeout(time.Minute))
	// Output:
	// "hello\n" <nil>
	// <nil>
}

// HTTP between members, where the server knows who asks: the pipe that a request
// comes in by has authenticated the member, and there is nothing to log in with.
func ExampleNode_WhoIs() {
	earth, mars, end := earthAndMars()
	defer end()
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	type caller struct{}
	server := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			peer, err := mars.WhoIs(c.RemoteAddr())
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, caller{}, peer)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, ok := r.Context().Value(caller{}).(idloc.Peer)
			if !ok {
				http.Error(w, "who are you?", http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, "hello, %s", peer.Name)
		}),
	}
	go server.Serve(l)
	defer server.Close()

	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars.example.com/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(string(b), err)
	// Output: hello, earth.example.com <nil>
}

// Datagrams between members, answered to where they came from.
func ExampleNode_ListenPacket() {
	earth, mars, end := earthAndMars()
	defer end()
	pc, err := mars.ListenPacket("udp", ":5000")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			who, err := mars.WhoIs(from)
			if err != nil {
				continue
			}
			pc.WriteTo(fmt.Appendf(nil, "%s from %s", b[:n], who.Name), from)
		}
	}()

	c, err := earth.Dial(context.Background(), "udp", "mars.example.com:5000")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	// Dial has opened the pipe. As on any network a datagram may be lost: who
	// needs the answer asks again.
	b := make([]byte, 1500)
	for range 10 {
		c.Write([]byte("ping"))
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(b)
		if err == nil {
			fmt.Printf("%s\n", b[:n])
			break
		}
	}
	// Output: ping from earth.example.com
}

// With a Config.Dir a node is the same peer after a restart: the same key, name
// and port, and the overlay is found without the token.
func ExampleOpen() {
	parent, err := os.MkdirTemp("", "idloc")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	cfg := idloc.Config{Name: "earth", Dir: filepath.Join(parent, "earth"), Addrs: onLoopback}
	ctx := context.Background()

	_, err = idloc.Open(ctx, cfg)
	fmt.Println("nothing there yet:", errors.Is(err, idloc.ErrNoState))
	node, err := idloc.Create(ctx, "example.com", cfg)
	if err != nil {
		log.Fatal(err)
	}
	id := node.ID()
	if err := node.Close(); err != nil {
		log.Fatal(err)
	}

	node, err = idloc.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	fmt.Println(node.Name(), "again, the same peer:", node.ID() == id)
	// Output:
	// nothing there yet: true
	// earth.example.com again, the same peer: true
}

// Tokens get to new members by another channel that one trusts already. Here it
// is a company's web service, which knows its users; a terminal, a QR code or a
// file of a configuration system do as well.
func ExampleNode_Invite() {
	earth, _, end := earthAndMars()
	defer end()
	service := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if !ok || user != "vera" || password != "s3cret" {
			http.Error(w, "not a user", http.StatusForbidden)
			return
		}
		token, err := earth.Invite(idloc.InviteOptions{Name: user, Expires: 10 * time.Minute})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.WriteString(w, token)
	}))
	defer service.Close()

	req, err := http.NewRequest("GET", service.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.SetBasicAuth("vera", "s3cret")
	resp, err := service.Client().Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	token, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	node, err := idloc.Join(context.Background(), string(token), idloc.Config{Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	fmt.Println(node.Name())
	// Output: vera.example.com
}

// A program that is a member of two overlays, and dials the rest of the world as
// before.
func ExampleDialer() {
	earth, mars, end := earthAndMars()
	defer end()
	ctx := context.Background()
	sun, err := idloc.Create(ctx, "example.org", idloc.Config{Name: "sun", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer sun.Close()
	outside := httptest.NewServer(http.NotFoundHandler())
	defer outside.Close()
	for _, n := range []*idloc.Node{mars, sun} {
		l, err := n.Listen("tcp", ":7")
		if err != nil {
			log.Fatal(err)
		}
		defer l.Close()
	}

	d := &idloc.Dialer{Nodes: []*idloc.Node{earth, sun}, Real: &net.Dialer{}}
	client := &http.Client{Transport: &http.Transport{DialContext: d.Dial}} // and so on
	defer client.CloseIdleConnections()
	for _, address := range []string{"mars.example.com:7", "sun.example.org:7", outside.Listener.Addr().String()} {
		c, err := d.Dial(ctx, "tcp", address)
		if err != nil {
			log.Fatal(err)
		}
		_, inside := c.(idloc.TCPConn)
		fmt.Println(inside)
		c.Close()
	}
	resp, err := client.Get(outside.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// true
	// true
	// false
	// 404 Not Found
}

// Who may open which flows to this node. Admit is asked before a SYN is answered;
// the peer it is told is authenticated, and so are its tags, which its invitation has given
// it. Here members with the tag ops may use ssh, and everybody the web server.
func ExampleConfig_admit() {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{
		Name: "earth", Addrs: onLoopback,
		Admit: func(f idloc.Flow) bool {
			switch f.Local.Port() {
			case 80:
				return true
			case 22:
				return slices.Contains(f.Peer.Tags, "ops")
			}
			return false
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer earth.Close()
	for _, port := range []string{":22", ":80"} {
		if _, err := earth.Listen("tcp", port); err != nil {
			log.Fatal(err)
		}
	}

	for name, tags := range map[string][]string{"vera": {"ops"}, "guest": nil} {
		token, err := earth.Invite(idloc.InviteOptions{Name: name, Tags: tags})
		if err != nil {
			log.Fatal(err)
		}
		node, err := idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
		if err != nil {
			log.Fatal(err)
		}
		for _, port := range []string{"22", "80"} {
			c, err := node.Dial(ctx, "tcp", "earth.example.com:"+port)
			fmt.Println(name, port, err == nil)
			if err == nil {
				c.Close()
			}
		}
		node.Close()
	}
	// Unordered output:
	// vera 22 true
	// vera 80 true
	// guest 22 false
	// guest 80 true
}

// Middleware that lets members through that have a tag.
func ExampleNode_WhoIsString() {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer earth.Close()
	l, err := earth.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	only := func(tag string, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, err := earth.WhoIsString(r.RemoteAddr)
			if err != nil || !slices.Contains(who.Tags, tag) {
				http.Error(w, who.Name+" has not the tag "+tag, http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	go http.Serve(l, only("ops", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "the logs")
	})))

	for _, tags := range [][]string{{"ops", "web"}, nil} {
		token, err := earth.Invite(idloc.InviteOptions{Tags: tags})
		if err != nil {
			log.Fatal(err)
		}
		mars, err := idloc.Join(ctx, token, idloc.Config{Name: "mars", Addrs: onLoopback})
		if err != nil {
			log.Fatal(err)
		}
		resp, err := mars.HTTPClient().Get("http://earth.example.com/logs")
		if err != nil {
			log.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Print(resp.StatusCode, " ", string(text))
		mars.Close()
	}
	// Output:
	// 200 the logs
	// 403 mars-2.example.com has not the tag ops
}

// The founder says who may open what at whom; everybody enforces it, and whoever is
// refused is told why.
func ExampleNode_SetGrants() {
	ctx := context.Background()
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: onLoopback})
	if err != nil {
		log.Fatal(err)
	}
	defer earth.Close()
	if _, err := earth.Listen("tcp", ":5432"); err != nil {
		log.Fatal(err)
	}
	err = earth.SetGrants(ctx, `
		allow tag:web to open tcp 5432 at earth
		expect tag:ci may not open tcp 5432 at earth
	`)
	if err != nil {
		log.Fatal(err)
	}
	for name, tag := range map[string]string{"venus": "web", "mars": "ci"} {
		token, err := earth.Invite(idloc.InviteOptions{Name: name, Tags: []string{tag}})
		if err != nil {
			log.Fatal(err)
		}
		node, err := idloc.Join(ctx, token, idloc.Config{Addrs: onLoopback})
		if err != nil {
			log.Fatal(err)
		}
		c, err := node.Dial(ctx, "tcp", "earth.example.com:5432")
		if err == nil {
			c.Close()
		}
		fmt.Println(name, err == nil, errors.Is(err, idloc.ErrRefusedByPolicy))
		node.Close()
	}
	why, err := earth.MayOpen(ctx, "tag:ci", "tcp", 5432, "earth")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(why.Why)
	// Unordered output:
	// venus true false
	// mars false true
	// tag:ci may not open tcp 5432 at earth: no rule allows it
}

// A service that ends without cutting anybody off: new connections are refused,
// those that are open may finish for a minute.
func ExampleNode_Shutdown() {
	earth, mars, end := earthAndMars()
	defer end()
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	asked, stopping := make(chan struct{}), make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-stopping // a request that takes its time
		fmt.Fprint(w, "the whole answer")
	})}
	go server.Serve(l)
	ended := make(chan error, 1)
	go func() { // what a program does when it gets a SIGTERM
		<-asked
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		close(stopping)
		err := server.Shutdown(ctx) // HTTP's connections first
		ended <- errors.Join(err, mars.Shutdown(ctx))
	}()

	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars.example.com/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(string(b), err)
	fmt.Println(<-ended)
	// Output:
	// the whole answer <nil>
	// <nil>
}

// A test of one's own program, behind the NATs of two homes, on a simulated
// network: no root, and no packet leaves the process. In a test the function's
// body stands as it is, with the test's t; here Run gives it one.
func Example_testBehindNATs() {
	err := idloctest.Run(func(t testing.TB) error {
		lab := idloctest.New(t)
		lab.Node("earth") // founds the overlay; it has a public address
		mars := lab.Node("mars", idloctest.BehindNAT(idloctest.PortRestricted))
		venus := lab.Node("venus", idloctest.BehindNAT(idloctest.PortRestricted))

		l, err := mars.Listen("tcp", ":7")
		if err != nil {
			return err
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			io.Copy(c, c) // the program under test
		}()
		c, err := venus.Dial(t.Context(), "tcp", "mars.example.com:7")
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Fprintln(c, "before")
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		fmt.Print(line)
		if err != nil {
			return err
		}
		venus.Move(idloctest.BehindNAT(idloctest.AddressRestricted)) // to another network, with the connection open
		fmt.Fprintln(c, "after")
		line, err = r.ReadString('\n')
		fmt.Print(line)
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// before
	// after
}
