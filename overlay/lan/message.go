package lan

import (
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// recordTTL is how long an announcement may be kept, by those who keep any, in
// seconds: RFC 6762 §10 has it for records with a host's name.
const recordTTL = 120

// question is the message that asks for a service.
func question(service string) ([]byte, error) {
	name, err := dnsmessage.NewName(service)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// announcement is the message that says where an instance of a service is.
func announcement(service, instance, sealed string, port uint16) ([]byte, error) {
	names := make([]dnsmessage.Name, 0, 3)
	for _, s := range []string{service, instance + "." + service, instance + ".local."} {
		n, err := dnsmessage.NewName(s)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	const unique = 1 << 15 // RFC 6762 §10.2, cache-flush: nobody else has records of this name
	head := func(n dnsmessage.Name, class dnsmessage.Class) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: n, Class: class, TTL: recordTTL}
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{Response: true, Authoritative: true},
		Answers: []dnsmessage.Resource{
			{Header: head(names[0], dnsmessage.ClassINET), Body: &dnsmessage.PTRResource{PTR: names[1]}},
			{Header: head(names[1], dnsmessage.ClassINET|unique), Body: &dnsmessage.SRVResource{Target: names[2], Port: port}},
			{Header: head(names[1], dnsmessage.ClassINET|unique), Body: &dnsmessage.TXTResource{TXT: []string{sealed}}},
		},
	}
	return m.Pack()
}

// parsed is what a message says of one service.
type parsed struct {
	asks   bool     // it asks for it
	sealed []string // strings of TXT records of its instances
}

// maxRecords bounds what is looked at of one message.
const maxRecords = 64

// parse reads a message from the network. One that is malformed, or of other services,
// says nothing.
func parse(b []byte, service string) (out parsed) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.OpCode != 0 {
		return parsed{}
	}
	is := func(n dnsmessage.Name) bool { return strings.EqualFold(n.String(), service) }
	for range maxRecords {
		q, err := p.Question()
		if err != nil {
			break
		}
		any := q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL
		out.asks = out.asks || !h.Response && any && is(q.Name)
	}
	if !h.Response || p.SkipAllQuestions() != nil {
		return out
	}
	for range maxRecords {
		rh, err := p.AnswerHeader()
		if err != nil {
			return out
		}
		_, parent, _ := strings.Cut(rh.Name.String(), ".")
		if rh.Type != dnsmessage.TypeTXT || !strings.EqualFold(parent, service) {
			if p.SkipAnswer() != nil {
				return out
			}
			continue
		}
		r, err := p.TXTResource()
		if err != nil {
			return out
		}
		out.sealed = append(out.sealed, r.TXT...)
	}
	return out
}
