package tokensource

import (
	"encoding/json"
	"encoding/xml"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// awkwardValue is a value that would break out of any text that it is put into as it is.
const awkwardValue = `a"b\c<d>&e=f'g {client_id} h/ü` + "\n}]"

func TestABodyIsEscapedAsItsContentTypeWantsIt(t *testing.T) {
	t.Parallel()
	for contentType, read := range map[string]func(body string) string{
		"application/json": func(body string) string {
			var v struct{ Login []string }
			if json.Unmarshal([]byte(body), &v) != nil {
				return "no JSON"
			}
			return strings.Join(v.Login, "|")
		},
		"application/vnd.api+json; charset=utf-8": func(body string) string {
			var v struct{ Login []string }
			if json.Unmarshal([]byte(body), &v) != nil {
				return "no JSON"
			}
			return strings.Join(v.Login, "|")
		},
		"text/xml": func(body string) string {
			var v struct {
				Value []string `xml:"value"`
			}
			if xml.Unmarshal([]byte(body), &v) != nil {
				return "no XML"
			}
			return strings.Join(v.Value, "|")
		},
		"application/soap+xml;charset=UTF-8": func(body string) string {
			var v struct {
				Value []string `xml:"value"`
			}
			if xml.Unmarshal([]byte(body), &v) != nil {
				return "no XML"
			}
			return strings.Join(v.Value, "|")
		},
		"application/x-www-form-urlencoded": func(body string) string {
			v, _ := url.ParseQuery(body)
			return strings.Join(v["value"], "|")
		},
		"text/plain": func(body string) string { return body },
	} {
		template := "{username}|{password}|{key}|{env.KEY}|{source.other}|{client_secret}"
		quoted := `["` + strings.ReplaceAll(template, "|", `","`) + `"]`
		switch {
		case strings.Contains(contentType, "json"):
			template = `{"login": ` + quoted + `}`
		case strings.Contains(contentType, "xml"):
			template = `<login><value>` + strings.ReplaceAll(template, "|", "</value><value>") + `</value></login>`
		case strings.Contains(contentType, "form"):
			template = "value=" + strings.ReplaceAll(template, "|", "&value=")
		}
		p := newProvider(t, issue("at-1", ""))
		c := client(p)
		c.Grant, c.Username, c.Password, c.ClientSecret = "password", awkwardValue, awkwardValue, awkwardValue
		c.Params = []Param{param("key", awkwardValue), param("unused", "x")}
		c.TokenRequest.Body = &Body{ContentType: contentType, Template: template}
		v := newVault("env.KEY", awkwardValue)
		c.Lookup, c.Others = v.lookup, neighbour("other", awkwardValue)
		token, failure := ask(t, newSource(t, c), nil)
		must(t, token, failure)
		r := p.only(t)
		want := strings.Join(slices.Repeat([]string{awkwardValue}, 6), "|")
		if got := read(r.body); got != want {
			t.Errorf("%s: %q arrived, want %q; sent was %s", contentType, got, want, r.body)
		}
		if r.header.Get("Content-Type") != contentType || r.method != "POST" {
			t.Errorf("%s: sent as %s %q", contentType, r.method, r.header["Content-Type"])
		}
		if r.header.Get("Authorization") != "" || strings.Contains(r.target, "?") || strings.Contains(r.body, "unused") {
			t.Errorf("%s: what does not stand in the template is sent: %s %q", contentType, r.target, r.header["Authorization"])
		}
	}
}

func TestABodyWithoutTheSecretLeavesItWhereItWas(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""))
	c := client(p)
	c.Scopes = []string{"read", "write"}
	c.TokenRequest.Body = &Body{"application/json", `{"type": "{grant_type}", "for": "{client_id}", "scope": "{scope}", "brace": "\{x}"}`, nil}
	token, failure := ask(t, newSource(t, c), nil)
	must(t, token, failure)
	r := p.only(t)
	if want := `{"type": "client_credentials", "for": "client", "scope": "read write", "brace": "{x}"}`; r.body != want {
		t.Errorf("sent %s, want %s", r.body, want)
	}
	if id, secret := basicOf(t, r); id != "client" || secret != "secret" {
		t.Errorf("the credentials are %q and %q", id, secret)
	}
}

func TestALoginThatIsWrittenOutSendsTheClientToo(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", ""))
	c := client(p)
	c.Grant = "custom"
	c.TokenRequest.Body = &Body{"application/json", `{"id": "{client_id}", "key": "{client_secret}"}`, nil}
	c.RefreshRequest = &Request{Body: &Body{"application/json", `{"renew": ["{refresh_token}", "{access_token}", "{client_id}"]}`, nil}}
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	must(t, token, failure)
	var bodies []string
	for _, r := range p.arrived() {
		bodies = append(bodies, r.body)
		if r.header.Get("Authorization") != "" {
			t.Errorf("sent Authorization as well, with %s", r.body)
		}
	}
	want := []string{`{"id": "client", "key": "secret"}`, `{"renew": ["rt-1", "at-1", "client"]}`}
	if !slices.Equal(bodies, want) {
		t.Errorf("sent %q, want %q", bodies, want)
	}
}

func TestARefreshDoesNotInheritABody(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", "rt-1"), issue("at-2", ""))
	c := client(p)
	c.TokenRequest = Request{Header: []Header{{"X-Api", "1"}}, Body: &Body{"application/json", `{"type": "{grant_type}"}`, nil}}
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	must(t, token, failure)
	if r := p.arrived()[1]; r.values(t).Get("refresh_token") != "rt-1" || r.header.Get("X-Api") != "1" {
		t.Errorf("the refresh is %s %s", r.header["Content-Type"], r.body)
	}
	// Where every request is a refresh, it is that one's.
	c.Grant, c.RefreshToken = "refresh_token", "seed"
	c.TokenRequest.Body = &Body{"application/json", `{"renew": "{refresh_token}"}`, nil}
	token, failure = ask(t, newSource(t, c), nil)
	must(t, token, failure)
	if r := p.arrived()[2]; r.body != `{"renew": "seed"}` {
		t.Errorf("sent %s", r.body)
	}
}

func TestWhatAProviderRepeatsOfABodyIsClean(t *testing.T) {
	t.Parallel()
	p := newProvider(t, reply(400, `{"error": "invalid_request", "error_description": "bad: secret-of-client, p\u0022w-0123456789, key-of-vault"}`))
	c := client(p)
	c.Grant, c.ClientSecret = "custom", "secret-of-client"
	c.Params = []Param{param("kennwort", `p"w-0123456789`)}
	c.Lookup = newVault("env.KEY", "key-of-vault").lookup
	c.TokenRequest.Body = &Body{"application/json", `{"a": "{kennwort}", "b": "{env.KEY}", "c": "{client_secret}"}`, nil}
	token, failure := ask(t, newSource(t, c), nil)
	if text := mustFail(t, token, failure).Error(); strings.Contains(text, "0123") || strings.Contains(text, "vault") || strings.Contains(text, "of-client") {
		t.Errorf("the error is %s", text)
	}
}

func TestAnotherBodyObtainsAnothersTokens(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""))
	c := client(p)
	v := newVault("env.TENANT", "a")
	c.Lookup = v.lookup
	c.TokenRequest.Body = &Body{"application/json", `{"tenant": "{env.TENANT}", "secret": "{client_secret}"}`, nil}
	token, failure := ask(t, newSource(t, c), nil)
	first := must(t, token, failure)
	c.ClientSecret = "rotated"
	if !newSource(t, c).Takes(first) {
		t.Error("a rotated secret makes it another's")
	}
	v.set("env.TENANT", "b")
	if newSource(t, c).Takes(first) {
		t.Error("another tenant's token is taken")
	}
	v.set("env.TENANT", "a")
	c.TokenRequest.Body = &Body{"application/json", `{"tenant": "{env.TENANT}", "more": 1, "secret": "{client_secret}"}`, nil}
	if newSource(t, c).Takes(first) {
		t.Error("what another body obtained is taken")
	}
}

// renewing renews a token with the token itself.
func renewing(p *provider) Config {
	c := client(p)
	c.RefreshRequest = &Request{
		URL:    p.URL + "/renew/{access_token}",
		Header: []Header{{"X-Old", "Old {access_token}"}},
		Params: []Param{param("grant_type", "renew"), param("token", "{access_token}")},
	}
	return c
}

func TestAnAccessTokenLeadsToTheNext(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at/1", ""), issue("at-2", ""))
	s := newSource(t, renewing(p))
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	if got := must(t, token, failure).AccessToken; got != "at-2" {
		t.Errorf("the token is %s", got)
	}
	first, second := p.arrived()[0], p.arrived()[1]
	if first.target != "/token" || first.values(t).Get("grant_type") != "client_credentials" || first.header.Get("X-Old") != "" {
		t.Errorf("the first request is %s %s", first.target, first.body)
	}
	v := second.values(t)
	if second.target != "/renew/at%2F1" || v.Get("token") != "at/1" || v.Get("grant_type") != "renew" || second.header.Get("X-Old") != "Old at/1" || v.Has("refresh_token") {
		t.Errorf("the second request is %s %s %q", second.target, second.body, second.header["X-Old"])
	}
}

func TestAnAccessTokenThatLeadsToNoneGivesWayToTheGrant(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""), reply(400, `{"error": "invalid_grant", "error_description": "at-1"}`), issue("at-2", ""))
	s := newSource(t, renewing(p))
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	if got := must(t, token, failure).AccessToken; got != "at-2" {
		t.Errorf("the token is %s", got)
	}
	if got, want := p.grantTypes(t), []string{"client_credentials", "renew", "client_credentials"}; !slices.Equal(got, want) {
		t.Errorf("asked by %q, want %q", got, want)
	}
	// One that is not for us leads nowhere.
	token, failure = ask(t, s, (&Token{AccessToken: "foreign"}).WithoutRefreshToken())
	must(t, token, failure)
	if got := p.grantTypes(t); got[len(got)-1] != "client_credentials" {
		t.Errorf("asked by %q", got)
	}
}

func TestWhatAPersonHasAuthorizedIsRenewedByItsAccessTokenUntilThatHasEnded(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-2", ""), reply(400, `{"error": {"message": "Error validating access token", "code": 190}}`))
	c := byConsent(p)
	c.RefreshRequest = renewing(p).RefreshRequest
	s := newSource(t, c)
	token, failure := ask(t, s, &Token{AccessToken: "at-1", Issued: time.Now(), Lifetime: time.Hour})
	if got := must(t, token, failure).AccessToken; got != "at-2" {
		t.Errorf("the token is %s", got)
	}
	token, failure = ask(t, s, &Token{AccessToken: "at-1", Issued: time.Now(), Lifetime: time.Hour})
	if e := mustFail(t, token, failure); e.AuthorizationRequired {
		t.Errorf("a person is wanted while the token is good: %v", e)
	}
	token, failure = ask(t, s, &Token{AccessToken: "at-1", Issued: time.Now().Add(-2 * time.Hour), Lifetime: time.Hour})
	if e := mustFail(t, token, failure); !e.AuthorizationRequired || !e.Permanent {
		t.Errorf("no person is wanted when it has ended: %v", e)
	}
	token, failure = ask(t, s, nil)
	if e := mustFail(t, token, failure); !e.AuthorizationRequired || len(p.arrived()) != 3 {
		t.Errorf("without a token: %v after %d requests", e, len(p.arrived()))
	}
}

func TestAGrantThatBeginsWithARefreshTokenDoesSoWhereThereIsNoAccessTokenYet(t *testing.T) {
	t.Parallel()
	p := newProvider(t, issue("at-1", ""), issue("at-2", ""))
	c := renewing(p)
	c.Grant, c.RefreshToken = "refresh_token", "seed"
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	token, failure = ask(t, s, must(t, token, failure))
	must(t, token, failure)
	first, second := p.arrived()[0], p.arrived()[1]
	if first.target != "/token" || first.values(t).Get("refresh_token") != "seed" {
		t.Errorf("the first request is %s %s", first.target, first.body)
	}
	if second.target != "/renew/at-1" || second.values(t).Get("token") != "at-1" {
		t.Errorf("the second request is %s %s", second.target, second.body)
	}
}
