package grants

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// FuzzParse: whatever the text is, it is refused by lines or read as the naive reading
// does, and read again it is the same.
func FuzzParse(f *testing.F) {
	f.Add(story)
	f.Add("expect venus may open tcp 5432 at mars\nexpect pluto may not open udp 1-2 at mars\n")
	f.Add("allow to, new to open tcp 80-90,everything at at, new only")
	f.Add("allow mars.example.internal. to open tcp at everybody.example.internal\r\n\ufeff")
	f.Add("# für \u202e")
	d := dice{rand.New(rand.NewPCG(19, 3))}
	for range 5 {
		f.Add(d.text())
	}
	asked := []Party{{}, {Name: "venus", Tags: []string{"web"}}, {Name: "mars", Tags: []string{"db", "public"}}, {Name: "new"}, {Name: "to"}, {Name: "everybody"}}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text, testDomain)
		if err != nil {
			var line *LineError
			if p != nil || !errors.As(err, &line) && !errors.Is(err, ErrTooLong) || len(err.Error()) > 11*400 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := Parse(p.Text(), testDomain)
		if err != nil || p.Text() != text || !reflect.DeepEqual(p, again) {
			t.Fatalf("%q: read again: %+v, %v", text, again, err)
		}
		for i := range p.rules { // what Explain shows is a rule, and the same
			one, err := Parse(p.rules[i].text, testDomain)
			if err != nil || len(one.rules) != 1 {
				t.Fatalf("%q: %v", p.rules[i].text, err)
			}
			if one.rules[0].line = p.rules[i].line; !reflect.DeepEqual(one.rules[0], p.rules[i]) {
				t.Fatalf("%q: %+v", p.rules[i].text, one.rules[0])
			}
		}
		if failed := p.Failures(); len(failed) > len(p.expectations) {
			t.Fatalf("%q: %q", text, failed)
		}
		if len(text) > 2_000 {
			return // the naive reading is slow
		}
		who, whom := asked, asked
		for i := range p.rules {
			if i == 3 {
				break
			}
			who = append(who, p.rules[i].who[0].least())
			whom = append(whom, p.rules[i].whom[0].least())
		}
		for _, a := range who {
			for _, b := range whom {
				for _, port := range []uint16{0, 1, 22, 80, 65535} {
					compare(t, p, naive{text, testDomain}, a, b, TCP, port)
					compare(t, p, naive{text, testDomain}, a, b, UDP, port)
				}
			}
		}
	})
}
