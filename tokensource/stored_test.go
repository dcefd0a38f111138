package tokensource

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestATokenThatWasWrittenDownIsTheSame(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", "rt-2"))
	f := newFile("seed")
	s := newSource(t, seeded(p, f))
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	text, err := first.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	again.Issued, first.Issued = again.Issued.UTC(), first.Issued.Round(0).UTC()
	if !reflect.DeepEqual(again, first) {
		t.Errorf("it was %+v and is %+v", first, again)
	}
	// Another process goes on with it.
	token, failure = ask(t, newSource(t, seeded(p, f)), again)
	must(t, token, failure)
	if got, want := p.refreshTokens(t), []string{"seed", "rt-1"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestWhatIsNoTokenIsNotReadAsOneNorShown(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "CANARY", "[]", "{}", `{"access_token":"CANARY"}`, `{"access_token":"","issued":"2026-01-01T00:00:00Z"}`,
		`{"access_token":"CANARY\r\nX: y","issued":"2026-01-01T00:00:00Z"}`, `{"access_token":"CANARY","issued":"2026-01-01T00:00:00Z","lifetime":-1}`,
		`{"access_token":"CANARY","issued":"CANARY"}`, `{"access_token":["CANARY"],"issued":"2026-01-01T00:00:00Z"}`,
	} {
		token, err := Decode([]byte(text))
		if err == nil || token != nil || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%q: %v, %v", text, token, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"access_token":"a","refresh_token":"r","issued":"2026-01-01T00:00:00Z","lifetime":5,"descents":[{"seed":"s","token":"t"}]}`))
	for kind := range keyKinds {
		text, err := (&Token{AccessToken: "a", Issued: time.Unix(1, 0), proof: &proofKey{keyKinds[kind][0], newKey(f, kind)}}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		token, err := Decode(text)
		if err != nil {
			return
		}
		first, err := token.Encode()
		if err != nil {
			return // a year that JSON cannot say
		}
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("%q: %v", first, err)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%q became %q: %v", first, second, err)
		}
	})
}

func TestTheIdentityIsWhatTheProviderTellsGrantsApartBy(t *testing.T) {
	t.Parallel()
	of := func(change func(*Config)) string {
		t.Helper()
		c := Config{
			Grant: "client_credentials", TokenURL: "https://auth.example.org/token?tenant=a", ClientID: "crm", ClientSecret: "s", Scopes: []string{"read"},
			Params: []Param{{Name: "tenant", Value: "a"}, {Name: "api_key", Value: "k"}},
		}
		change(&c)
		id, err := newSource(t, c).Identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	same := of(func(*Config) {})
	for name, change := range map[string]func(*Config){
		"a rotated secret":          func(c *Config) { c.ClientSecret = "t" },
		"a rotated parameter":       func(c *Config) { c.Params[1].Value = "l" },
		"a header that is a secret": func(c *Config) { c.TokenRequest.Header = []Header{{Name: "X-Api-Key", Value: "1"}} },
		"how the client proves":     func(c *Config) { c.ClientAuth = "client_secret_post" },
		"a secret in the address":   func(c *Config) { c.TokenURL += "&api_key=k" },
	} {
		if of(change) != same && name != "a secret in the address" {
			t.Errorf("%s makes it another's", name)
		}
	}
	if of(func(c *Config) { c.TokenURL += "&api_key=k" }) != of(func(c *Config) { c.TokenURL += "&api_key=l" }) {
		t.Error("a rotated secret in the address makes it another's")
	}
	for name, change := range map[string]func(*Config){
		"another client":    func(c *Config) { c.ClientID = "billing" },
		"another provider":  func(c *Config) { c.TokenURL = "https://auth.example.net/token" },
		"another scope":     func(c *Config) { c.Scopes = []string{"write"} },
		"another tenant":    func(c *Config) { c.Params[0].Value = "b" },
		"a tenant's header": func(c *Config) { c.TokenRequest.Header = []Header{{Name: "X-Tenant", Value: "b"}} },
		"another grant": func(c *Config) {
			c.Grant, c.Username, c.Password = "password", "peter", "p"
		},
		"no scope": func(c *Config) { c.Scopes = nil },
	} {
		if of(change) == same {
			t.Errorf("%s is taken for the same", name)
		}
	}
}

func TestARefreshTokenBelongsToItsClientWhateverElseIsAsked(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", "rt-2"))
	f := newFile("seed")
	c := seeded(p, f)
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	if !s.Takes(first) {
		t.Error("a source does not take its own token")
	}
	other := c
	other.Scopes = []string{"write"}
	o := newSource(t, other)
	mine, _ := s.Identity()
	its, _ := o.Identity()
	if mine != its || o.Takes(first) {
		t.Errorf("with another scope: the same identity: %v, takes the access token: %v", mine == its, o.Takes(first))
	}
	f.write("another seed")
	if s.Takes(first) {
		t.Error("a new configured refresh token is not used")
	}
	f.write("seed")
	if !s.Takes(first) {
		t.Error("and the old one is not recognized again")
	}
}

func TestAnIdentityThatCannotBeResolvedIsAnError(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{Grant: "client_credentials", TokenURL: "https://auth.example.org", ClientID: "{file./missing}", Lookup: newVault().lookup})
	if id, err := s.Identity(); err == nil {
		t.Errorf("it is %s", id)
	}
	if s.Takes(&Token{}) {
		t.Error("it takes a token all the same")
	}
}

// TestWithoutAPermitNoRefreshTokenIsSent refuses it at either moment.
func TestWithoutAPermitNoRefreshTokenIsSent(t *testing.T) {
	t.Parallel()
	for _, allowed := range []int{0, 1, 2} {
		p := newProvider(t, issue("at-1", "rt-1"))
		s := newSource(t, seeded(p, newFile("seed")))
		asked := 0
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		token, err := s.Obtain(WithPermit(ctx, func() error {
			if asked++; asked > allowed {
				return errors.New("this was frozen")
			}
			return nil
		}), nil)
		cancel()
		if allowed == 2 {
			if err != nil || token.AccessToken != "at-1" {
				t.Errorf("got %v, %v", token, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("with %d permits there is a token", allowed)
		}
		if got := p.refreshTokens(t); len(got) != 0 {
			t.Errorf("with %d permits %q was sent", allowed, got)
		}
	}
	// The grant itself spends nothing.
	p := newProvider(t, issue("at-1", "rt-1"))
	s := newSource(t, Config{Grant: "client_credentials", TokenURL: p.URL, ClientID: "crm", ClientSecret: "s"})
	if _, err := s.Obtain(WithPermit(context.Background(), func() error { return errors.New("no") }), nil); err != nil {
		t.Error(err)
	}
}

func TestATokenThatWasAskedForOrReadInAnotherWayIsNotTaken(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""))
	v := newVault()
	v.set("env.TENANT", "a")
	c := client(p)
	c.Params, c.Lookup = []Param{{Name: "company_code", Value: "a"}, {Name: "context", JSON: []byte(`{"tenant":"{env.TENANT}"}`)}}, v.lookup
	token, failure := ask(t, newSource(t, c), nil)
	first := must(t, token, failure)
	if !newSource(t, c).Takes(first) {
		t.Error("a source does not take its own token")
	}
	for name, change := range map[string]func(*Config){
		"another company":        func(c *Config) { c.Params = []Param{{Name: "company_code", Value: "b"}, c.Params[1]} },
		"another field":          func(c *Config) { c.Response.AccessToken = "id_token" },
		"another lifetime":       func(c *Config) { c.DefaultLifetime = time.Minute },
		"another tenant in JSON": func(*Config) { v.set("env.TENANT", "b") },
	} {
		other := c
		change(&other)
		if newSource(t, other).Takes(first) {
			t.Errorf("%s: it is taken all the same", name)
		}
		v.set("env.TENANT", "a")
	}
	c.ClientSecret = "rotated"
	if !newSource(t, c).Takes(first) {
		t.Error("a rotated client secret makes it another's")
	}
}

func TestTheIdentityOfALoginHoldsNoneOfItsValues(t *testing.T) {
	t.Parallel()
	of := func(password string) string {
		s := newSource(t, Config{Grant: "custom", TokenURL: "https://auth.example.org", Params: []Param{{Name: "kennwort", Value: password}}})
		id, err := s.Identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if of("a") != of("b") {
		t.Error("it tells passwords apart")
	}
}
