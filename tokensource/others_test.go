package tokensource

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// neighbours are other sources, each with the tokens that it has one after the
// other: a refusal brings the next.
type neighbours struct {
	mu         sync.Mutex // guards what follows
	tokens     map[string][]string
	identities map[string]string
	waited     int
	reported   []string
	failure    *Error
}

func neighbour(name string, tokens ...string) *neighbours {
	return &neighbours{tokens: map[string][]string{name: tokens}, identities: map[string]string{name: "identity of " + name}}
}

func (n *neighbours) Token(ctx context.Context, name string) (*Token, *Error) {
	n.mu.Lock()
	n.waited++
	failure := n.failure
	n.mu.Unlock()
	if failure != nil {
		return nil, failure
	}
	if token := n.Current(name); token != nil {
		return token, nil
	}
	<-ctx.Done()
	return nil, &Error{Reason: "it did not get one in time"}
}

func (n *neighbours) Current(name string) *Token {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.tokens[name]) == 0 {
		return nil
	}
	return &Token{AccessToken: n.tokens[name][0]}
}

func (n *neighbours) Replacement(_ context.Context, name string, refused *Token) *Token {
	n.mu.Lock()
	n.reported = append(n.reported, refused.AccessToken)
	if len(n.tokens[name]) < 2 {
		n.mu.Unlock()
		return nil
	}
	n.tokens[name] = n.tokens[name][1:]
	n.mu.Unlock()
	return n.Current(name)
}

func (n *neighbours) Identity(name string) (string, error) { return n.identities[name], nil }

func TestTheTokenOfAnotherSourceStandsWhereItIsNamed(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", ""))
	c := client(p)
	c.Others = neighbour("login", `t"o/k+e n`)
	c.Params = []Param{param("session", "S {source.login}"), {Name: "context", JSON: json.RawMessage(`{"a":["{source.login}"]}`)}}
	c.TokenRequest = Request{Encoding: "json", Header: []Header{{"X-Session", "{source.login}"}}}
	c.RefreshRequest = &Request{Params: []Param{param("old", "{source.login}{refresh_token}")}}
	c.ClientSecret, c.RawBasic = "{source.login}", true // which is what it is: a secret with braces
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	must(t, token, failure)
	for i, r := range p.arrived() {
		var body map[string]any
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Fatal(err)
		}
		inner, _ := json.Marshal(body["context"])
		if body["session"] != `S t"o/k+e n` || string(inner) != `{"a":["t\"o/k+e n"]}` || r.header.Get("X-Session") != `t"o/k+e n` {
			t.Errorf("request %d: sent %s with %q", i+1, r.body, r.header["X-Session"])
		}
		if _, secret := basicOf(t, r); secret != "{source.login}" {
			t.Errorf("request %d: the client secret is %q", i+1, secret)
		}
		if i == 1 && body["old"] != `t"o/k+e nrt-1` {
			t.Errorf("the refresh sent %v", body["old"])
		}
	}
}

func TestATokenIsExchangedThatAnotherSourceHas(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""))
	c := client(p)
	c.Grant, c.SubjectToken, c.ActorToken = "token_exchange", "{source.login}", "{source.login}"
	c.Others = neighbour("login", "token-of-login")
	token, failure := ask(t, newSource(t, c), nil)
	must(t, token, failure)
	if v := p.only(t).values(t); v.Get("subject_token") != "token-of-login" || v.Get("actor_token") != "token-of-login" {
		t.Errorf("sent %v", v)
	}
}

func TestASourceWithoutItsNeighboursTokenWaitsForItAndSaysSo(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]*neighbours{
		"it is not there in time": neighbour("login"),
		"a person is needed":      {failure: &Error{Reason: "no token: a person must authorize this source", Permanent: true, AuthorizationRequired: true, RetryAfter: time.Second}},
	} {
		p := newProvider(t, issue("at-1", ""))
		c := client(p)
		c.Others, c.Timeout = n, 50*time.Millisecond
		c.Params = []Param{param("session", "{source.login}")}
		token, failure := ask(t, newSource(t, c), nil)
		e := mustFail(t, token, failure)
		if e.Permanent || e.AuthorizationRequired || e.Changed != nil || !strings.Contains(e.Error(), "the token source login has no token") {
			t.Errorf("%s: %+v", name, e)
		}
		if n := len(p.arrived()); n != 0 {
			t.Errorf("%s: %d requests were sent", name, n)
		}
	}
}

func TestANeighboursTokenThatIsRefusedIsReplacedAndTheRequestSentOnceMore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status   int
		code     string
		reported int
		sent     int
	}{
		"an expired subject":       {400, "invalid_grant", 1, 2},
		"a refusal without a code": {401, "", 1, 2},
		"not our credentials":      {401, "invalid_client", 0, 1},
		"a wrong address":          {404, "", 0, 1},
		"a passing trouble":        {503, "", 0, 1},
		"too many":                 {429, "", 0, 1},
	} {
		p := newProvider(t, reply(c.status, `{"error": "`+c.code+`", "error_description": "token-one is no good"}`), issue("at-1", ""))
		n := neighbour("login", "token-one", "token-two")
		config := client(p)
		config.Others = n
		config.Params = []Param{param("session", "{source.login}")}
		token, failure := ask(t, newSource(t, config), nil)
		if len(n.reported) != c.reported || len(p.arrived()) != c.sent {
			t.Errorf("%s: %q was reported, and %d requests sent", name, n.reported, len(p.arrived()))
		}
		if c.sent == 2 {
			must(t, token, failure)
			if got := p.arrived()[1].values(t).Get("session"); got != "token-two" {
				t.Errorf("%s: sent %q the second time", name, got)
			}
		} else if e := mustFail(t, token, failure); strings.Contains(e.Error(), "token-one") {
			t.Errorf("%s: the error shows the token: %v", name, e)
		}
	}
}

func TestARequestThatIsRefusedAgainIsNotSentAThirdTime(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, `{"error": "invalid_grant", "error_description": "token-one token-two token-three"}`))
	n := neighbour("login", "token-one", "token-two", "token-three")
	c := client(p)
	c.Others = n
	c.Params = []Param{param("session", "{source.login}")}
	token, failure := ask(t, newSource(t, c), nil)
	e := mustFail(t, token, failure)
	if !e.Permanent || len(p.arrived()) != 2 || strings.Contains(e.Error(), "token-two") {
		t.Errorf("%d requests, and the error is %v", len(p.arrived()), e)
	}
	// It is asked again when there is another token.
	if !e.Changed() {
		t.Error("the third token is no change")
	}
	n.tokens["login"] = []string{"token-two"}
	if e.Changed() {
		t.Error("the same token is a change")
	}
	n.tokens["login"] = nil
	if e.Changed() {
		t.Error("no token is a change")
	}
}

func TestANewTokenOfANeighbourIsNoNewIdentityButAnotherNeighbourIs(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"a parameter": func(c *Config) { c.Params = []Param{param("session", "{source.login}")} },
		"JSON":        func(c *Config) { c.Params = []Param{{Name: "x", JSON: json.RawMessage(`"{source.login}"`)}} },
		"a header": func(c *Config) {
			c.TokenRequest.Header = []Header{{"X-Session", "{source.login}"}}
		},
		"a subject": func(c *Config) { c.Grant, c.SubjectToken = "token_exchange", "{source.login}" },
	} {
		p := newProvider(t, issue("at-1", ""))
		n := neighbour("login", "token-one", "token-two")
		c := client(p)
		c.Others = n
		change(&c)
		s := newSource(t, c)
		token, failure := ask(t, s, nil)
		first := must(t, token, failure)
		before, err := s.Identity()
		if err != nil {
			t.Fatal(err)
		}
		n.tokens["login"] = n.tokens["login"][1:]
		if after, err := s.Identity(); err != nil || after != before || !s.Takes(first) {
			t.Errorf("%s: with a new token it is another's: %v", name, err)
		}
		n.tokens["login"] = nil
		if after, err := s.Identity(); err != nil || after != before {
			t.Errorf("%s: without a token it is another's: %v", name, err)
		}
		n.identities["login"] = "another account"
		if s.Takes(first) {
			t.Errorf("%s: what came by another account is taken", name)
		}
	}
}

func TestARevocationNeedsNoNeighbour(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(200, ""))
	c := revocable(p)
	n := &neighbours{failure: &Error{Reason: "down"}}
	c.Others, c.Params = n, []Param{param("session", "{source.login}")}
	s := newSource(t, c)
	if _, err := s.Revoke(t.Context(), &Token{AccessToken: "at-1", RefreshToken: "rt-1", Issued: time.Now()}); err != nil || n.waited > 0 {
		t.Errorf("%v, and %d waited", err, n.waited)
	}
}
