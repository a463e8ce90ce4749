// Grpc calls a gRPC service of a member by its name. Both ends are grpc-go as
// it is: the server gets a listener of a node, the client its Dial. There is
// no TLS, since the pipe below encrypts, and the server knows who calls.
//
//	go run . -found example.com -name earth -serve        # on earth; prints a token
//	go run . -join idloc1… -name mars earth.example.com   # on mars
//
// With -needs ops it serves those only that have the tag ops by their invitation, or
// because the founder says so (Node.SetGrants), and prints a token for one as well.
//
// It is a module of its own: run it in this folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/idloc/idloc/idloc"
)

const port = "50051"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "grpc:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends, or calls and returns.
func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("grpc", flag.ContinueOnError)
	fs.SetOutput(out)
	domain := fs.String("found", "", "found the overlay of this domain")
	token := fs.String("join", "", "enter an overlay with this token")
	serving := fs.Bool("serve", false, "serve until interrupted")
	needs := fs.String("needs", "", "with -serve: `tag` that a member needs to be served")
	cfg := idloc.Config{}
	fs.StringVar(&cfg.Name, "name", "", "host label to ask for; the machine's name if empty")
	fs.StringVar(&cfg.Dir, "dir", "", "folder that keeps the membership; without -found and -join it is resumed")
	fs.Func("addr", "local IP `address` to use; may be repeated; all if not given", func(s string) error {
		a, err := netip.ParseAddr(s)
		cfg.Addrs = append(cfg.Addrs, a)
		return err
	})
	fs.Usage = func() {
		fmt.Fprintf(out, "Usage: grpc [flags] [name ...]\n\nCalls the greeter of each member named, or is one.\n\n")
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
	for _, name := range fs.Args() {
		if err := call(ctx, node, name, out); err != nil {
			return err
		}
	}
	if *serving {
		return serve(ctx, node, *needs, out)
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

// call says hello to a member.
func call(ctx context.Context, node *idloc.Node, name string, out io.Writer) error {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(name, port), // the node resolves names
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return node.Dial(ctx, "tcp", addr) }),
		grpc.WithTransportCredentials(insecure.NewCredentials())) // the pipe is encrypted
	if err != nil {
		return err
	}
	defer conn.Close()
	var answer wrapperspb.StringValue
	if err := conn.Invoke(ctx, "/idloc.Greeter/Hello", wrapperspb.String("how are you?"), &answer); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %s\n", name, answer.Value)
	return err
}

// serve is a greeter until ctx ends, for members that have a tag unless that is "".
func serve(ctx context.Context, node *idloc.Node, tag string, out io.Writer) error {
	l, err := node.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(onlyWith(node, tag)))
	srv.RegisterService(&greeterDesc, &greeter{node})
	fmt.Fprintln(out, "serving as", node.Name())
	if token, err := node.Invite(idloc.InviteOptions{Uses: idloc.AnyNumber}); err == nil {
		fmt.Fprintln(out, "others enter with: go run . -join", token)
	}
	if tag != "" {
		if token, err := node.Invite(idloc.InviteOptions{Uses: idloc.AnyNumber, Tags: []string{tag}}); err == nil {
			fmt.Fprintln(out, "those with the tag", tag, "with: go run . -join", token)
		}
	}
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	return srv.Serve(l)
}

// onlyWith lets calls of members through that have a tag, of all if that is "".
func onlyWith(node *idloc.Node, tag string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if tag == "" {
			return next(ctx, req)
		}
		p, ok := peer.FromContext(ctx)
		if !ok {
			return nil, status.Error(codes.Unauthenticated, "not a call of a member")
		}
		member, err := node.WhoIs(p.Addr)
		if err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		if !slices.Contains(member.Tags, tag) {
			return nil, status.Errorf(codes.PermissionDenied, "%s has not the tag %s", member.Name, tag)
		}
		return next(ctx, req)
	}
}

// greeter is the service. Its description is what protoc would write for
//
//	service Greeter { rpc Hello(google.protobuf.StringValue) returns (google.protobuf.StringValue); }
type greeter struct{ node *idloc.Node }

func (g *greeter) Hello(ctx context.Context, question *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	who := "stranger"
	if p, ok := peer.FromContext(ctx); ok {
		if member, err := g.node.WhoIs(p.Addr); err == nil { // authenticated
			who = member.Name
		}
	}
	return wrapperspb.String(fmt.Sprintf("hello %s; you asked %q", who, question.Value)), nil
}

var greeterDesc = grpc.ServiceDesc{
	ServiceName: "idloc.Greeter",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Hello",
		Handler: func(srv any, ctx context.Context, decode func(any) error, through grpc.UnaryServerInterceptor) (any, error) {
			var question wrapperspb.StringValue
			if err := decode(&question); err != nil {
				return nil, err
			}
			hello := func(ctx context.Context, req any) (any, error) {
				return srv.(*greeter).Hello(ctx, req.(*wrapperspb.StringValue))
			}
			if through == nil {
				return hello(ctx, &question)
			}
			return through(ctx, &question, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/idloc.Greeter/Hello"}, hello)
		},
	}},
}
