package grants

import (
	"slices"
	"strings"
	"testing"
)

const testDomain = "example.internal"

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse(text, testDomain)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return p
}

// member reads "venus tag:web tag:db", "tag:web" or "".
func member(s string) (p Party) {
	for _, w := range strings.Fields(s) {
		if tag, ok := strings.CutPrefix(w, "tag:"); ok {
			p.Tags = append(p.Tags, tag)
		} else {
			p.Name = w
		}
	}
	return p
}

const story = `
# Who may do what, read on a Monday.
allow tag:web to open tcp 5432 at tag:db
allow venus, pluto to open tcp 22, udp 60000-61000 at mars
allow everybody to open everything at tag:public
allow tag:admin to open tcp at everybody           # all TCP ports
allow tag:ops to open tcp 80 at mars, new only
`

func TestDecisions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what, text, who, whom string
		network               Network
		port                  uint16
		line                  int // that allows it; 0: none, -1: there are no rules
	}{
		{"a tag at a tag", story, "tag:web", "tag:db", TCP, 5432, 3},
		{"a member that has more tags, at one that has", story, "juno tag:ci tag:web", "ceres tag:x tag:db", TCP, 5432, 3},
		{"another port", story, "tag:web", "tag:db", TCP, 5433, 0},
		{"another network", story, "tag:web", "tag:db", UDP, 5432, 0},
		{"another tag", story, "tag:web2", "tag:db", TCP, 5432, 0},
		{"a name that is like the tag", story, "web", "db", TCP, 5432, 0},
		{"the way back", story, "tag:db", "tag:web", TCP, 5432, 0},
		{"a name of a list", story, "pluto", "mars", TCP, 22, 4},
		{"a range: before", story, "pluto", "mars", UDP, 59999, 0},
		{"a range: its first", story, "pluto", "mars", UDP, 60000, 4},
		{"a range: its last", story, "pluto", "mars", UDP, 61000, 4},
		{"a range: after", story, "pluto", "mars", UDP, 61001, 0},
		{"a tag that is like a name", story, "tag:pluto", "mars", TCP, 22, 0},
		{"whoever it is", story, "", "tag:public", UDP, 1, 5},
		{"whoever it is, at the last port", story, "nobody", "tag:public", TCP, 65535, 5},
		{"port 0", story, "nobody", "tag:public", TCP, 0, 0},
		{"an unknown network", story, "nobody", "tag:public", 2, 80, 0},
		{"all TCP ports", story, "tag:admin", "", TCP, 31337, 6},
		{"no UDP port", story, "tag:admin", "", UDP, 31337, 0},
		{"the first of several rules", story, "tag:admin tag:web", "tag:db", TCP, 5432, 3},
		{"new only", story, "tag:ops", "mars", TCP, 80, 7},

		{"no text", "", "pluto", "mars", TCP, 22, -1},
		{"comments only", "# allow venus to open tcp at mars\n\n", "pluto", "mars", UDP, 0, -1},
		{"expectations only", "expect pluto may open tcp 22 at mars", "pluto", "mars", 9, 22, -1},

		{"case", "ALLOW Venus TO Open TCP 22 aT TAG:Db", "venus", "tag:db", TCP, 22, 1},
		{"full names", "allow venus.example.internal to open tcp 22 at Mars.Example.Internal.", "venus", "mars", TCP, 22, 1},
		{"tight", "allow a,b to open tcp 1,udp 2 at c,d,new only#e", "b", "d", UDP, 2, 1},
		{"tabs and carriage returns", "\tallow\ta  to open tcp at b\r\n", "a", "b", TCP, 7, 1},
		{"a carriage return at the end", "allow a to open tcp at b\r", "a", "b", TCP, 7, 1},
		{"a byte order mark", "\ufeffallow a to open tcp at b", "a", "b", TCP, 7, 1},
		{"another script in a comment", "allow a to open tcp at b # für später: сервер\n", "a", "b", TCP, 7, 1},
		{"names of digits", "allow 7 to open tcp at 7up", "7", "7up", TCP, 7, 1},
		{"keywords as names", "allow to, may, allow to open tcp at at, new, only, new only", "allow", "only", TCP, 7, 1},
		{"one keyword as a name", "allow to to open tcp at at", "to", "at", TCP, 7, 1},
		{"new as the last name", "allow a to open tcp at b, new", "a", "new", TCP, 7, 1},
		{"the member called everybody", "allow everybody.example.internal to open tcp at b", "everybody", "b", TCP, 7, 1},
		{"and nobody else", "allow everybody.example.internal to open tcp at b", "a", "b", TCP, 7, 0},
		{"the tag called everybody", "allow tag:everybody to open tcp at b", "a", "b", TCP, 7, 0},
		{"everybody beside others", "allow a, everybody, tag:b to open tcp at x, everybody", "c", "d", TCP, 7, 1},
		{"ports that touch", "allow a to open tcp 5-6, tcp 1-4, tcp 7, tcp 2 at b", "a", "b", TCP, 7, 1},
		{"ports that do not", "allow a to open tcp 5-6, tcp 1-3, tcp 8 at b", "a", "b", TCP, 4, 0},
		{"the last port", "allow a to open udp 65535, udp 65534 at b", "a", "b", UDP, 65535, 1},
		{"the first port", "allow a to open udp 65535, udp 1 at b", "a", "b", UDP, 1, 1},
	} {
		p := mustParse(t, test.text)
		who, whom := member(test.who), member(test.whom)
		want := test.line != 0
		d := p.Explain(who, whom, test.network, test.port)
		if got := p.At(whom).Allows(who, test.network, test.port); got != want || d.Allowed != want || d.Line != max(0, test.line) {
			t.Errorf("%s: %v, %v", test.what, got, d)
		}
	}
}

func TestNewOnly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what, text, who string
		port            uint16
		want            bool
	}{
		{"a rule without it", "allow a to open tcp 1 at m", "a", 1, false},
		{"a rule with it", "allow a to open tcp 1 at m, new only", "a", 1, true},
		{"another port", "allow a to open tcp 1 at m, new only", "a", 2, false},
		{"somebody else", "allow a to open tcp 1 at m, new only", "b", 1, false},
		{"one of two, the second", "allow a to open tcp at m\nallow tag:x to open tcp 1 at m, new only", "a tag:x", 1, true},
		{"one of two, the first", "allow everybody to open tcp 1 at m, new only\nallow a to open tcp at m", "a", 1, true},
		{"one of two for the same name", "allow a to open tcp at m\nallow a to open tcp 1 at m, new only", "a", 1, true},
		{"at another member", "allow a to open tcp 1 at n, new only", "a", 1, false},
		{"no rules", "", "a", 1, false},
	} {
		p := mustParse(t, test.text)
		if got := p.At(member("m")).Keeps(member(test.who), TCP, test.port); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
		if d := p.Explain(member(test.who), member("m"), TCP, test.port); d.NewOnly != test.want {
			t.Errorf("%s: %+v", test.what, d)
		}
	}
}

// TestFlowOverChanges follows the doc: one bool with each flow is enough, over any number
// of policies.
func TestFlowOverChanges(t *testing.T) {
	t.Parallel()
	const yes, once, no = "allow a to open tcp at m", "allow a to open tcp 1 at m, new only", "allow b to open tcp at m"
	who := Party{Name: "a"}
	for _, test := range []struct {
		policies []string
		ends     int // by which of them; 0: never
	}{
		{[]string{yes, no}, 1},
		{[]string{once, no, no, no}, 0},
		{[]string{once, no, yes, no}, 3},
		{[]string{once, yes, once, no}, 0},
		{[]string{yes, once, no}, 0},
		{[]string{"", no}, 1},
		{[]string{once, no, "", no}, 3},
		{[]string{yes, once + "\n" + yes, no}, 0},
	} {
		open, keeps, ends := true, false, 0
		for i, text := range test.policies {
			switch g := mustParse(t, text).At(member("m")); {
			case !open:
			case g.Allows(who, TCP, 1):
				keeps = g.Keeps(who, TCP, 1)
			case !keeps:
				open, ends = false, i
			}
		}
		if ends != test.ends {
			t.Errorf("%q: ended by %d, want %d", test.policies, ends, test.ends)
		}
	}
}

// TestNil: without a policy, or without rules in one, everything goes.
func TestNil(t *testing.T) {
	t.Parallel()
	var p *Policy
	if p.Text() != "" || p.Failures() != nil || p.At(Party{}) != nil {
		t.Errorf("%q, %q, %v", p.Text(), p.Failures(), p.At(Party{}))
	}
	var g *Guard
	if !g.Allows(Party{}, UDP, 0) || g.Keeps(Party{}, UDP, 0) {
		t.Errorf("a nil Guard: %v, %v", g.Allows(Party{}, UDP, 0), g.Keeps(Party{}, UDP, 0))
	}
	if d := p.Explain(Party{Name: "a"}, Party{Name: "b"}, UDP, 5); !d.Allowed || d.String() != "a may open udp 5 at b: there are no rules" {
		t.Error(d)
	}
	// A policy of which no rule is about a member is none that says nothing.
	if g := mustParse(t, "allow a to open tcp at b").At(Party{Name: "c"}); g == nil || g.Allows(Party{Name: "a"}, TCP, 1) {
		t.Error("no rule is about c, and it lets a in")
	}
}

func TestSentences(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "\n\n  allow  venus,tag:web to open TCP at mars # why\n")
	for _, test := range []struct{ who, whom, want string }{
		{"venus", "mars", `venus may open tcp 5432 at mars: line 3, "allow venus,tag:web to open TCP at mars"`},
		{"pluto", "mars", `pluto may not open tcp 5432 at mars: no rule allows it`},
		{"pluto tag:db tag:web", "mars tag:x", `pluto (tag:db, tag:web) may open tcp 5432 at mars (tag:x): line 3, "allow venus,tag:web to open TCP at mars"`},
		{"tag:db tag:ci", "", `tag:db, tag:ci may not open tcp 5432 at somebody: no rule allows it`},
	} {
		if got := p.Explain(member(test.who), member(test.whom), TCP, 5432).String(); got != test.want {
			t.Errorf("%s\nwant %s", got, test.want)
		}
	}
	if s := mustParse(t, "allow a to open tcp 1 at b").Explain(member("a"), member("b"), TCP, 1).String(); s != `a may open tcp 1 at b: line 1, "allow a to open tcp 1 at b"` {
		t.Error(s)
	}
	if s := UDP.String() + ", " + Network(2).String(); s != "udp, network 2" {
		t.Error(s)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ what, text, want string }{
		{"what is allowed", "expect venus may open tcp 22 at mars", ""},
		{"a range that is", "expect venus may open udp 60000-61000 at mars", ""},
		{"what is not", "expect pluto may not open tcp 23 at mars", ""},
		{"a tag", "expect tag:web may open tcp 5432 at tag:db", ""},
		{"a tag that may not", "expect tag:web may not open tcp 22 at mars", ""},
		{"everybody", "expect everybody may open everything at tag:public", ""},
		{"at everybody", "expect tag:admin may open tcp at everybody", ""},
		{"one of all", "expect tag:admin may open tcp 7 at pluto", ""},

		{"no rule", "Expect  venus may open tcp 23 at mars # !", `line 1, "Expect venus may open tcp 23 at mars": no rule allows tcp 23`},
		{"a range too long", "expect venus may open udp 60000-61001 at mars", `: no rule allows udp 61001`},
		{"a range too early", "expect venus may open udp 59999-60001 at mars", `: no rule allows udp 59999`},
		{"all ports", "expect venus may open tcp at mars", `: no rule allows tcp 1`},
		{"both networks", "expect tag:admin may open everything at mars", `: no rule allows udp 1`},
		{"a rule too many", "expect pluto may not open tcp 22 at mars", `: line 5, "allow venus, pluto to open tcp 22, udp 60000-61000 at mars", allows tcp 22`},
		{"the end of a range", "expect pluto may not open udp 1-60000 at mars", `, allows udp 60000`},
		{"the start of a range", "expect pluto may not open udp 60500-65535 at mars", `, allows udp 60500`},
		{"one network of two", "expect tag:admin may not open everything at x", `, allows tcp 1`},
		{"everybody, where some may", "expect everybody may open tcp 22 at mars", `: no rule allows tcp 22`},
		{"a member whose tag would do", "expect venus may open tcp 5432 at tag:db", `: no rule allows tcp 5432`},
	} {
		got := strings.Join(mustParse(t, test.text+"\n"+story).Failures(), "; ")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
	p := mustParse(t, "expect a may open tcp at b\nexpect a may not open tcp at b\nexpect b may not open udp 1 at a")
	want := []string{
		`line 2, "expect a may not open tcp at b": there are no rules, so everybody may open everything`,
		`line 3, "expect b may not open udp 1 at a": there are no rules, so everybody may open everything`,
	}
	if got := p.Failures(); !slices.Equal(got, want) {
		t.Errorf("without rules: %q", got)
	}
	joined := mustParse(t, "allow a to open tcp 1-10, tcp 21-30 at b\nallow everybody to open tcp 5-25 at b\nexpect a may open tcp 2-29 at b")
	if got := joined.Failures(); got != nil {
		t.Errorf("two rules together allow it: %q", got)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", story, "\ufeff# a\r\n", "allow a to open tcp at b"} {
		if got := mustParse(t, text).Text(); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}
