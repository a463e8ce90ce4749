package nat

import (
	"errors"
	"strings"
	"testing"
)

func TestParseICEServer(t *testing.T) {
	for text, want := range map[string]ICEServer{
		"stun:192.0.2.1":                                      {Host: "192.0.2.1", Port: 3478},
		"stun:stun.example.com:19302":                         {Host: "stun.example.com", Port: 19302},
		"STUN:[2001:db8::1]:5000":                             {Host: "2001:db8::1", Port: 5000},
		"stun:[2001:db8::1]":                                  {Host: "2001:db8::1", Port: 3478},
		"stun:stun.example.com?transport=udp":                 {Host: "stun.example.com", Port: 3478},
		"turn:u:p@192.0.2.1":                                  {TURN: true, Host: "192.0.2.1", Port: 3478, User: "u", Password: "p"},
		"turn:u:p@turn.example.com:99?transport=tcp":          {TURN: true, TCP: true, Host: "turn.example.com", Port: 99, User: "u", Password: "p"},
		"turns:u:p@turn.example.com":                          {TURN: true, TCP: true, TLS: true, Host: "turn.example.com", Port: 5349, User: "u", Password: "p"},
		"turn:1765000000%3Aalice:c2VjcmV0%3D@[2001:db8::1]:5": {TURN: true, Host: "2001:db8::1", Port: 5, User: "1765000000:alice", Password: "c2VjcmV0="},
		"turn:turn.example.com?transport=udp&username=a%40b&credential=p%26q%3Ds": {TURN: true, Host: "turn.example.com", Port: 3478, User: "a@b", Password: "p&q=s"},
		"turn:a@b:p@h": {TURN: true, Host: "h", Port: 3478, User: "a@b", Password: "p"},
	} {
		got, err := ParseICEServer(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if strings.Contains(got.String(), got.Password) && got.Password != "p" && got.Password != "" {
			t.Errorf("String tells the password: %s", got)
		}
	}
	for text, why := range map[string]string{
		"":                              "want stun:",
		"http://h":                      "want stun:",
		"stun:":                         "no host",
		"turn://u:s3cret@h":             "(RFC 7064, RFC 7065): write turn:…@h",
		"stun://h":                      "(RFC 7064, RFC 7065): write stun:h",
		"stun:h:0":                      "port",
		"stun:h:70000":                  "port",
		"stun:u:p@h":                    "no credentials",
		"stun:h?transport=tcp":          "transport",
		"stun:a:b:c":                    "malformed host",
		"turn:192.0.2.1:3478":           "wants a user and a password",
		"turn:user@h":                   "wants a user and a password",
		"turn:user:s3cret@":             "no host",
		"turn:user:s3cret@h:x":          "port",
		"turn:us%zzer:s3cret@h":         "percent-encoding",
		"turn:user:s3cret@h?transport=": "transport",
		"turn:user:s3cret@h?x=y":        "unknown parameter",
		"turn:h?username=u&credential=s3cret&transport=sctp": "transport",
		"turn:h?credential=s3cret&%zz":                       "malformed query",
		"turns:user:s3cret@h?transport=udp":                  "DTLS",
		"stuns:h":                                            "cannot see",
	} {
		_, err := ParseICEServer(text)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q in it", text, err, why)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the password: %v", text, err)
		}
		if unsupported := why == "DTLS" || why == "cannot see"; errors.Is(err, errors.ErrUnsupported) != unsupported {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzICEServer(f *testing.F) {
	f.Add("turn:u:p@[2001:db8::1]:5?transport=tcp")
	f.Add("turn:h?username=u&credential=p")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseICEServer(text)
		if err != nil {
			return
		}
		if s.Host == "" || s.Port == 0 || s.TURN != (s.User != "") {
			t.Errorf("%q: %+v", text, s)
		}
		// What a server is called parses again, but for the credentials.
		s.User, s.Password = "", ""
		again := s.String()
		if s.TURN {
			again += map[bool]string{true: "&", false: "?"}[strings.Contains(again, "?")] + "username=u&credential=p"
			s.User, s.Password = "u", "p"
		}
		if back, err := ParseICEServer(again); err != nil || back != s {
			t.Errorf("%q is %q is %+v, %v", text, again, back, err)
		}
	})
}
