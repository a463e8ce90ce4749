// Files shares folders between the members of an overlay: each is an io/fs.FS
// behind an HTTP server that members reach by name, and nobody else.
//
//	files -found example.com -name earth -share .          # on earth; prints a token
//	files -join idloc1… -name mars http://earth.example.com/            # on mars: what is there
//	files -dir … http://earth.example.com/README.md > README.md         # later: one file
//
// A folder's page is HTML, for browsers behind examples/gateway, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/signal"

	"github.com/idloc/idloc/idloc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "files:", err)
		stop()
		os.Exit(1)
	}
}

// run shares until ctx ends, or fetches and returns. What is fetched goes to
// out, all else to errOut.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	fs := flag.NewFlagSet("files", flag.ContinueOnError)
	fs.SetOutput(errOut)
	domain := fs.String("found", "", "found the overlay of this domain")
	token := fs.String("join", "", "enter an overlay with this token")
	share := fs.String("share", "", "folder to share, until interrupted")
	cfg := idloc.Config{}
	fs.StringVar(&cfg.Name, "name", "", "host label to ask for; the machine's name if empty")
	fs.StringVar(&cfg.Dir, "dir", "", "folder that keeps the membership; without -found and -join it is resumed")
	fs.Func("addr", "local IP `address` to use; may be repeated; all if not given", func(s string) error {
		a, err := netip.ParseAddr(s)
		cfg.Addrs = append(cfg.Addrs, a)
		return err
	})
	fs.Usage = func() {
		fmt.Fprintf(errOut, "Usage: files [flags] [URL ...]\n\nShares a folder with the members of an overlay, or fetches what they share.\n\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	node, err := enter(ctx, *domain, *token, cfg)
	if err != nil {
		return err
	}
	defer node.Close()
	for _, url := range fs.Args() {
		if err := fetch(ctx, node, url, out); err != nil {
			return err
		}
	}
	if *share == "" {
		return nil
	}
	// A Root, not os.DirFS: no symbolic link leads out of it.
	root, err := os.OpenRoot(*share)
	if err != nil {
		return err
	}
	defer root.Close()
	l, err := node.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	fmt.Fprintf(errOut, "%s is at http://%s/\n", *share, node.Name())
	if token, err := node.Invite(idloc.InviteOptions{Uses: idloc.AnyNumber}); err == nil {
		fmt.Fprintln(errOut, "others enter with: files -join", token)
	}
	srv := &http.Server{Handler: http.FileServerFS(root.FS())}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func enter(ctx context.Context, domain, token string, cfg idloc.Config) (*idloc.Node, error) {
	switch {
	case domain != "":
		return idloc.Create(ctx, domain, cfg)
	case token != "":
		return idloc.Join(ctx, token, cfg)
	}
	return idloc.Open(ctx, cfg)
}

func fetch(ctx context.Context, node *idloc.Node, url string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := node.HTTPClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.Copy(out, resp.Body)
	return err
}
