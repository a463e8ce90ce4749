package stun

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// A check says what it was made of.
func TestCheckMessage(t *testing.T) {
	t.Parallel()
	remote := Credentials{Ufrag: "theirs", Pwd: "their password"}
	for _, c := range []Check{
		{Local: "mine", Remote: remote},
		{Local: "mine", Remote: remote, Role: Controlling, Tie: 7, Priority: 1 << 24},
		{Local: "mine", Remote: remote, Role: Controlled, Tie: 1 << 63, Nominate: true},
		{Local: "mine", Remote: remote, Role: Controlling, Nominate: true},
	} {
		b, id, err := c.Message()
		if err != nil {
			t.Fatal(err)
		}
		if kind, got := Classify(b); kind != Request || got != id {
			t.Errorf("%+v: classified %v, %x", c, kind, got)
		}
		m, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		receiver, sender, ok := m.Users()
		if !ok || receiver != "theirs" || sender != "mine" || m.Role() != c.Role || m.Nominates() != c.Nominate || m.ID() != id {
			t.Errorf("%+v is read as %q, %q, %v, role %v, nominates %v", c, receiver, sender, ok, m.Role(), m.Nominates())
		}
		if RoleOf(b) != c.Role || Nominates(b) != c.Nominate {
			t.Errorf("%+v: role %v, nominates %v without a Parse", c, RoleOf(b), Nominates(b))
		}
		if !Verified(b, remote.Pwd) || Verified(b, "another") {
			t.Errorf("%+v: the integrity is not that of the password", c)
		}
		if _, again, _ := c.Message(); again == id {
			t.Errorf("two checks have one transaction")
		}
	}
	if _, _, err := (Check{Local: strings.Repeat("x", 600), Remote: remote}).Message(); err == nil {
		t.Error("a fragment of 600 bytes fits into a USERNAME")
	}
}

// A question asks nothing but where it comes from, and the response says that.
func TestQuestionAndSuccess(t *testing.T) {
	t.Parallel()
	b, id := Question()
	if kind, got := Classify(b); kind != Request || got != id || Username(b) != nil {
		t.Errorf("a question is %v of %x for %q", kind, got, Username(b))
	}
	for _, from := range []string{"192.0.2.7:1", "[2001:db8::7]:65535", "127.0.0.1:4000"} {
		for _, pwd := range []string{"", "a password"} {
			a, err := Success(id, netip.MustParseAddrPort(from), pwd)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(a)
			if err != nil {
				t.Fatal(err)
			}
			mapped, ok := m.Mapped()
			if kind, got := Classify(a); kind != Response || got != id || !ok || mapped.String() != from || !m.IsSuccess() {
				t.Errorf("%s: kind %v, mapped %v, %v", from, kind, mapped, ok)
			}
			if IsAnswer(a, "a password") != (pwd != "") {
				t.Errorf("%s, password %q: is it an answer?", from, pwd)
			}
		}
	}
}

// Only a check with our password is answered.
func TestAnswer(t *testing.T) {
	t.Parallel()
	from := netip.MustParseAddrPort("192.0.2.7:4000")
	b, id, err := Check{Local: "theirs", Remote: Credentials{Ufrag: "mine", Pwd: "secret"}}.Message()
	if err != nil {
		t.Fatal(err)
	}
	before := string(b)
	a, ok := Answer(b, from, "secret")
	if !ok || !IsAnswer(a, "secret") {
		t.Fatalf("%x, %v", a, ok)
	}
	if string(b) != before {
		t.Error("the request was changed")
	}
	if _, got := Classify(a); got != id {
		t.Errorf("another transaction: %x, not %x", got, id)
	}
	question, _ := Question()
	for what, q := range map[string][]byte{"another's password": b, "no integrity": question, "no message": []byte("GET / HTTP/1.1"), "nothing": nil} {
		if _, ok := Answer(q, from, "guessed"); ok {
			t.Errorf("%s: answered", what)
		}
	}
}

// What is no message is an error that says so, and has nothing.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{nil, []byte("x"), make([]byte, 20), make([]byte, 200)} {
		if _, err := Parse(b); !errors.Is(err, ErrMessage) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		if RoleOf(b) != NoRole || Nominates(b) || Verified(b, "") || IsAnswer(b, "") {
			t.Errorf("%d bytes say something", len(b))
		}
	}
	// A request has no mapped address, whatever it says; nor has one without the
	// attribute, or with a port of 0.
	b, _ := Question()
	if m, err := Parse(b); err != nil {
		t.Error(err)
	} else if a, ok := m.Mapped(); ok {
		t.Errorf("a question has the mapped address %v", a)
	}
	zero, err := Success(TransactionID{}, netip.MustParseAddrPort("192.0.2.1:0"), "")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := Parse(zero); err != nil {
		t.Error(err)
	} else if a, ok := m.Mapped(); ok {
		t.Errorf("port 0 is the mapped address %v", a)
	}
}
