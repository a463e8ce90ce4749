package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/idloc/idloc/examples/internal/private"
	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/resolver"
)

// socketName is the control socket in a running node's directory. The
// directory is its owner's alone (0700), and so is the socket.
const socketName = "control.sock"

// control answers the other commands for a running node: HTTP on a Unix
// socket. It is safe for concurrent use.
type control struct {
	path  string
	srv   *http.Server
	ended chan struct{} // closed when the node has ended
	done  chan struct{} // closed when the server has
}

// request is what a command asks, as JSON.
type request struct {
	Name     string        `json:"name"` // or what else is its argument
	Expires  time.Duration `json:"expires"`
	Delegate bool          `json:"delegate"`
	Replaces string        `json:"replaces"`
	Void     bool          `json:"void"`
	Wait     time.Duration `json:"wait"`
}

// reply is what it hears, as JSON.
type reply struct {
	Text    string `json:"text"`    // for its standard output; empty: nothing
	Pending string `json:"pending"` // which proposal others have to approve; empty: none, it is done
}

// listen serves until close. stop is called when somebody asks for it.
func listen(dir string, node *idloc.Node, stop func()) (*control, error) {
	c := &control{path: filepath.Join(dir, socketName), ended: make(chan struct{}), done: make(chan struct{})}
	// A crash has left it: nobody else has the directory open.
	if err := os.Remove(c.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := private.Listen(c.path) // which leaves removing it to close
	if err != nil {
		return nil, fmt.Errorf("control socket (a path of more than about 100 bytes is too long for one): %w", err)
	}
	mux := http.NewServeMux()
	handle := func(command string, f func(context.Context, request) (string, error)) {
		mux.HandleFunc("POST /"+command, func(w http.ResponseWriter, r *http.Request) {
			var q request
			err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&q)
			var text string
			if err == nil {
				text, err = f(r.Context(), q)
			}
			a := reply{Text: text}
			if errors.Is(err, idloc.ErrPending) {
				a.Pending, err = strings.TrimPrefix(err.Error(), "idloc: "), nil
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnprocessableEntity)
				return
			}
			_ = json.NewEncoder(w).Encode(a) // who asked has gone if not
		})
	}
	handle("invite", func(_ context.Context, q request) (string, error) {
		return node.Invite(idloc.InviteOptions{Name: q.Name, Expires: q.Expires, Delegate: q.Delegate, Replaces: q.Replaces})
	})
	handle("revoke", func(ctx context.Context, q request) (string, error) {
		return done(q.Name+" is revoked", node.Revoke(ctx, q.Name))
	})
	rule(handle, node)
	handle("ping", func(ctx context.Context, q request) (string, error) { return ping(ctx, node, q) })
	handle("status", func(context.Context, request) (string, error) {
		b, err := json.MarshalIndent(node.Status(), "", "  ")
		return string(b), err
	})
	handle("zone", func(context.Context, request) (string, error) { return zone(node) })
	handle("leave", func(ctx context.Context, _ request) (string, error) {
		// The node closes with this; what runs it hears so by stop.
		err := node.Leave(ctx)
		stop()
		<-c.ended
		return node.Name() + " has left", err
	})
	handle("stop", func(context.Context, request) (string, error) {
		stop()
		<-c.ended
		return node.Name() + " has stopped", nil
	})
	c.srv = &http.Server{Handler: mux}
	go func() {
		defer close(c.done)
		_ = c.srv.Serve(l) // until close
	}()
	return c, nil
}

// unlisten removes the socket. It comes before the node's end: after that the
// next node of the directory may have made its own.
func (c *control) unlisten() { _ = os.Remove(c.path) }

// close tells whoever said stop that the node has ended, and ends.
func (c *control) close() {
	close(c.ended)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = c.srv.Shutdown(ctx)
	<-c.done
}

// zone returns a line for a zone file for each name that the node knows, its
// own first: the draft's "MAY be stored in DNS as well" (§5).
func zone(node *idloc.Node) (string, error) {
	st := node.Status()
	names, ids := []string{st.Self.Name}, map[string]idloc.PeerID{st.Self.Name: st.Self.ID}
	for _, p := range st.Peers {
		if p.Name != "" && ids[p.Name].IsZero() {
			names, ids[p.Name] = append(names, p.Name), p.ID
		}
	}
	lines, err := resolver.ZoneLines(names, func(name string) idloc.PeerID { return ids[name] }, time.Hour)
	return strings.TrimSuffix(lines, "\n"), err
}

// ping tries until the peer answers: it may have to join first.
func ping(ctx context.Context, node *idloc.Node, q request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	var why error
	for {
		res, err := node.Ping(ctx, q.Name)
		if why == nil || ctx.Err() == nil { // one that the time cut short says less than the one before
			why = err
		}
		if err == nil {
			return fmt.Sprintf("%s answers after %v, %s path to %s", res.Peer.Name, res.RTT.Round(time.Microsecond), res.Path.Kind, res.Path.Remote), nil
		}
		select {
		case <-ctx.Done():
			return "", why
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ask puts one command to the node that runs in dir.
func ask(ctx context.Context, command, dir, arg string, o options, std streams) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	body, err := json.Marshal(request{Name: arg, Expires: o.expires, Delegate: o.delegate, Replaces: o.replaces, Void: o.void, Wait: o.wait})
	if err != nil {
		return err
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, abs, o.wait) }}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://node/"+command, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(text)))
	}
	var a reply
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	if a.Text != "" {
		if _, err := fmt.Fprintln(std.out, a.Text); err != nil {
			return err
		}
	}
	if command == "recovery" {
		fmt.Fprintln(std.diag, "invite: this line is shown once and kept nowhere: print it, and keep it away from all machines")
	}
	if a.Pending != "" {
		fmt.Fprintf(std.diag, "invite: not in force yet: %s; another authority says: invite approve DIR ID\n", a.Pending)
	}
	return nil
}

// dial connects to the node of dir, which may have been started a moment ago.
func dial(ctx context.Context, dir string, wait time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, socketName))
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no node runs in %s (start one with found, join or open): %w", dir, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
