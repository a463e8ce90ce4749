package idloc_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

// tabled are the rows of the table of errors in the package doc, by their first
// column.
var tabled = map[string]struct {
	in    func(error) bool // err is, or has inside, what the row is about
	where string           // the test that provokes it, if that is not TestErrorTexts: it takes more than the API on loopback
	text  string           // which it has, as that test has it: there is only a part of it, without LSIs and ports
}{
	"net.ErrClosed":            {in: is(net.ErrClosed)},
	"context.Canceled":         {in: is(context.Canceled)},
	"context.DeadlineExceeded": {in: is(context.DeadlineExceeded)},
	"os.ErrDeadlineExceeded":   {in: is(os.ErrDeadlineExceeded)},
	"*StageError":              {in: as[*idloc.StageError]},
	"ErrUnreachable":           {in: is(idloc.ErrUnreachable)},
	"ErrRefusedByPolicy":       {in: is(idloc.ErrRefusedByPolicy)},
	"ErrLSIExhausted": {in: is(idloc.ErrLSIExhausted), where: "../lsi/bounds_test.go",
		text: "no free LSI: all 4 addresses of 10.0.0.0/29 are in use or in quarantine"},
	"ErrNoState":   {in: is(idloc.ErrNoState)},
	"*ConfigError": {in: as[*idloc.ConfigError]},
	"*CutError":    {in: as[*idloc.CutError]},
	"*PrefixError": {in: as[*idloc.PrefixError], where: "../netstack/tun/overlap_test.go",
		text: "tun: LSIs cannot be in 198.18.0.0/16: this host has a route to 198.18.0.0/15 by eth1; Config.LSIPrefix chooses others, 10.198.0.0/16 is free"},
	"*net.DNSError":              {in: as[*net.DNSError]},
	"*net.AddrError":             {in: as[*net.AddrError]},
	"net.UnknownNetworkError":    {in: as[net.UnknownNetworkError]},
	"membership.ErrNotToken":     {in: is(membership.ErrNotToken)},
	"membership.ErrTokenDamaged": {in: is(membership.ErrTokenDamaged)},
	"membership.ErrTokenVersion": {in: is(membership.ErrTokenVersion)},
	"membership.ErrUsed":         {in: is(membership.ErrUsed)},
	"membership.ErrUses":         {in: is(membership.ErrUses)},
	"membership.ErrTags":         {in: is(membership.ErrTags)},
	"netstack.ErrNotAdmitted": {in: is(netstack.ErrNotAdmitted), where: "idloctest/grants_test.go",
		text: ": the peer may not have this connection open any more"},
	"ErrExpectation": {in: is(idloc.ErrExpectation)},
	"ErrPending":     {in: is(idloc.ErrPending)},
	"ErrNoProposal":  {in: is(idloc.ErrNoProposal)},
	"ErrNoCertificate": {in: is(idloc.ErrNoCertificate), where: "../overlay/pki/pki_test.go",
		text: "pki: no certificate: no authority or delegate is reached"},
	"ErrOtherCertificate": {in: is(idloc.ErrOtherCertificate), where: "tls_test.go",
		text: "pki: the certificate of another member"},
	"ErrRecoveryLine":           {in: is(idloc.ErrRecoveryLine)},
	"membership.ErrAuthority":   {in: is(membership.ErrAuthority)},
	"admission.ErrScope":        {in: is(admission.ErrScope)},
	"admission.ErrNoInvitation": {in: is(admission.ErrNoInvitation)},
	"membership.ErrLifetime":    {in: is(membership.ErrLifetime)},
	"membership.ErrBadLabel":    {in: is(membership.ErrBadLabel)},
	"membership.ErrBadDomain":   {in: is(membership.ErrBadDomain)},
	"overlay.ErrNotIssuer":      {in: is(overlay.ErrNotIssuer)},
	"overlay.ErrNotFounder":     {in: is(overlay.ErrNotFounder)},
	"errors.ErrUnsupported":     {in: is(errors.ErrUnsupported)},
	"syscall.ECONNREFUSED":      {in: is(syscall.ECONNREFUSED)},
	"syscall.ECONNRESET":        {in: is(syscall.ECONNRESET)},
	"syscall.EPIPE":             {in: is(syscall.EPIPE)},
	"syscall.ENOTCONN":          {in: is(syscall.ENOTCONN)},
	"syscall.ETIMEDOUT":         {in: is(syscall.ETIMEDOUT)},
	"syscall.EHOSTUNREACH": {in: is(syscall.EHOSTUNREACH), where: "../netstack/errors_test.go",
		text: ": connect: no route to host"},
	"syscall.EADDRINUSE":    {in: is(syscall.EADDRINUSE)},
	"syscall.EADDRNOTAVAIL": {in: is(syscall.EADDRNOTAVAIL)},
	"syscall.EMSGSIZE":      {in: is(syscall.EMSGSIZE)},
	"syscall.EINVAL":        {in: is(syscall.EINVAL)},
}

// untabled are errnos that netstack has a translation to, and no call of the API
// that returns them is known.
var untabled = map[string]string{
	"EISCONN":      "nobody connects a conn twice",
	"EACCES":       "there is no broadcast",
	"ECONNABORTED": "gVisor's for what a conn calls ECONNRESET",
	"EDESTADDRREQ": "each conn has a peer, or WriteTo says one",
	"ENETUNREACH":  "routes to both LSI prefixes are always there",
	"ENOBUFS":      "the link queues nothing",
	"EOPNOTSUPP":   "no call asks for what TCP and UDP have not",
	"ENOPROTOOPT":  "no option that gVisor does not know is set",
	"EAFNOSUPPORT": "both families are always there",
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// rowsProvoked are those that a test has provoked.
var rowsProvoked sync.Map

func wasProvoked(err error) {
	for name, row := range tabled {
		if row.in(err) {
			rowsProvoked.Store(name, true)
		}
	}
}

// tableOfErrors reads the table in the package doc: its first column.
func tableOfErrors(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "// # Errors\n")
	text, _, ok2 := strings.Cut(text, "// # ")
	if !ok || !ok2 {
		t.Fatal("doc.go has no section of errors")
	}
	rows := make(map[string]bool)
	for line := range strings.Lines(text) {
		row, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			continue
		}
		columns := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(row), -1)
		if len(columns) != 3 {
			t.Errorf("not error, when, what to do: %q", row)
			continue
		}
		if columns[0] != "error" {
			rows[columns[0]] = true
		}
	}
	return rows
}

// TestErrorTable: the table in the package doc has all errors that the package
// exports, and each errno that netstack makes of what gVisor says.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	rows := tableOfErrors(t)
	for name := range tabled {
		if !rows[name] {
			t.Errorf("%s is not in the table of the package doc", name)
		}
	}
	for name := range rows {
		if _, ok := tabled[name]; !ok {
			t.Errorf("%s is in the table of the package doc, and no test knows it", name)
		}
	}
	for _, name := range exportedErrors(t, ".") {
		if !rows[name] {
			t.Errorf("%s is exported and not in the table", name)
		}
	}
	errnos := 0
	eachNode(t, "../netstack", func(n ast.Node) {
		s, ok := n.(*ast.SelectorExpr)
		if !ok || !regexp.MustCompile(`^E[A-Z]{3,}$`).MatchString(s.Sel.Name) {
			return
		}
		if pkg, ok := s.X.(*ast.Ident); !ok || pkg.Name != "syscall" || s.Sel.Name == "EAGAIN" {
			return
		}
		errnos++
		if _, ok := untabled[s.Sel.Name]; !ok && !rows["syscall."+s.Sel.Name] {
			t.Errorf("netstack makes a syscall.%s, which is not in the table", s.Sel.Name)
		}
	})
	if errnos < 20 {
		t.Errorf("only %d errnos found in netstack", errnos)
	}
	for name, row := range tabled {
		if row.where == "" {
			continue
		}
		if b, err := os.ReadFile(row.where); err != nil || row.text == "" || !strings.Contains(string(b), strconv.Quote(row.text)) {
			t.Errorf("%s is not provoked in %s, or not with the text %q: %v", name, row.where, row.text, err)
		}
		for _, fault := range faults("something" + row.text) {
			t.Errorf("%s: %s: %s", name, fault, row.text)
		}
	}
}

// allProvoked wants each row of the table to have been provoked by TestErrorTexts.
func allProvoked(t *testing.T) {
	for name, row := range tabled {
		if name == "ErrUnreachable" && testing.Short() {
			continue // of peers that are gone, which takes ten seconds
		}
		if _, ok := rowsProvoked.Load(name); !ok && row.where == "" {
			t.Errorf("no test provokes %s", name)
		}
	}
}

// eachNode walks the syntax of a folder's package without its tests.
func eachNode(t *testing.T, folder string, f func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool { f(n); return true })
	}
}

// exportedErrors are the variables Err… and the types …Error of a package, as the
// table has them.
func exportedErrors(t *testing.T, folder string) (names []string) {
	t.Helper()
	eachNode(t, folder, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.ValueSpec:
			for _, id := range n.Names {
				if strings.HasPrefix(id.Name, "Err") {
					names = append(names, id.Name)
				}
			}
		case *ast.TypeSpec:
			if n.Name.IsExported() && strings.HasSuffix(n.Name.Name, "Error") {
				names = append(names, "*"+n.Name.Name)
			}
		}
	})
	if len(names) < 5 {
		t.Errorf("only found %q", names)
	}
	return names
}

// tcpPair are both ends of a TCP connection between two nodes.
func tcpPair(t *testing.T, from, to *idloc.Node) (c, s idloc.TCPConn) {
	t.Helper()
	l, err := to.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dialed, err := dialTimeout(t, from, "tcp", net.JoinHostPort(to.Name(), port))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(idloc.TCPConn), accepted.(idloc.TCPConn)
}

func textsOfEnds(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	b := make([]byte, 1)
	c, s := tcpPair(t, venus, mars)
	_ = s.SetLinger(0)
	s.Close()
	reset := second(c.Read(b))
	after := second(c.Write(b))
	over := c.CloseWrite()
	open, _ := tcpPair(t, venus, mars)
	_ = open.CloseWrite()
	check(t,
		provoked{"Read after a reset", reset, `read tcp LSI:PORT->LSI:PORT: read: connection reset by peer`, []error{syscall.ECONNRESET}},
		provoked{"Write after that", after, `write tcp LSI:PORT->LSI:PORT: write: broken pipe`, []error{syscall.EPIPE}},
		provoked{"CloseWrite after that", over, `close tcp LSI:PORT->LSI:PORT: shutdown: transport endpoint is not connected`, []error{syscall.ENOTCONN}},
		provoked{"Write after CloseWrite", second(open.Write(b)), `write tcp LSI:PORT->LSI:PORT: write: broken pipe`, []error{syscall.EPIPE}},
		provoked{"an option's value", open.SetUserTimeout(-time.Second), `set tcp LSI:PORT->LSI:PORT: setsockopt: invalid argument`, []error{syscall.EINVAL}},
		provoked{"SyscallConn", second(open.SyscallConn()), `raw-control tcp LSI:PORT->LSI:PORT: this conn has no descriptor: TCP/IP runs in the process: unsupported operation`, []error{errors.ErrUnsupported}},
	)
}

func textsOfTimeout(t *testing.T) {
	t.Parallel()
	lab := idloctest.New(t)
	venus, mars := lab.Node("venus"), lab.Node("mars")
	c, _ := tcpPair(t, venus.Node, mars.Node)
	if err := c.SetUserTimeout(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*idloctest.Node{venus, mars} {
		n.SetLink(idloctest.Link{Loss: 1})
	}
	if _, err := c.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	check(t, provoked{"Read of one that nobody acknowledges", second(c.Read(make([]byte, 1))), `read tcp LSI:PORT->LSI:PORT: read: connection timed out`, []error{syscall.ETIMEDOUT}})
	for _, n := range []*idloctest.Node{venus, mars} {
		n.SetLink(idloctest.Link{})
	}
}
