package tokensource

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// issuer is a provider that publishes metadata, without a network: what answers at
// each address, and what has arrived there.
type issuer struct {
	mu      sync.Mutex // guards what follows
	answers map[string]func(*http.Request) (*http.Response, error)
	asked   []string
	bodies  []string
	headers []http.Header
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	i.mu.Lock()
	i.asked = append(i.asked, r.Method+" "+r.URL.String())
	i.bodies, i.headers = append(i.bodies, string(body)), append(i.headers, r.Header.Clone())
	answer := i.answers[r.URL.String()]
	i.mu.Unlock()
	if answer == nil {
		return madeUp(404, "not here"), nil
	}
	return answer(r)
}

// at has a status and a body at an address.
func (i *issuer) at(address string, status int, body string) {
	i.does(address, func(*http.Request) (*http.Response, error) { return madeUp(status, body), nil })
}

func (i *issuer) does(address string, answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answers[address] = answer
}

// requests returns what was asked since, and forgets it.
func (i *issuer) requests() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer func() { i.asked, i.bodies, i.headers = nil, nil, nil }()
	return i.asked
}

const (
	realm      = "https://auth.example.org/realms/a"
	realmKnown = realm + "/.well-known/openid-configuration"
	realmToken = realm + "/token"
)

// published is a document of this realm, with changes; "-" takes a field out.
func published(changes ...string) string {
	m := map[string]any{
		"issuer": realm, "authorization_endpoint": realm + "/authorize", "token_endpoint": realmToken,
		"device_authorization_endpoint": realm + "/device", "revocation_endpoint": realm + "/revoke",
		"code_challenge_methods_supported": []string{"plain", "S256"}, "jwks_uri": realm + "/certs", "scopes_supported": []string{"openid"},
	}
	for i := 0; i < len(changes); i += 2 {
		m[changes[i]] = json.RawMessage(changes[i+1])
		if changes[i+1] == "-" {
			delete(m, changes[i])
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// newIssuer is that realm: its metadata, and a token endpoint.
func newIssuer(changes ...string) *issuer {
	i := &issuer{answers: make(map[string]func(*http.Request) (*http.Response, error))}
	i.at(realmKnown, 200, published(changes...))
	i.at(realmToken, 200, `{"access_token":"at","refresh_token":"rt","expires_in":3600}`)
	i.at(realm+"/device", 200, shown())
	i.at(realm+"/revoke", 200, "")
	return i
}

// of is a source of which the realm is all that is known.
func (i *issuer) of(changes ...func(*Config)) Config {
	c := Config{Grant: "authorization_code", Issuer: realm, ClientID: "crm", ClientSecret: "canary-client-secret-of-32-bytes-and-more", RedirectURI: landing, Transport: i, UserAgent: agent}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func credentials(c *Config) { c.Grant, c.RedirectURI = "client_credentials", "" }

func TestWhereMetadataAreFetchedFollowsFromTheIssuer(t *testing.T) {
	t.Parallel()
	for of, want := range map[string][]string{
		"https://auth.example.org":             {"https://auth.example.org/.well-known/openid-configuration", "https://auth.example.org/.well-known/oauth-authorization-server"},
		"https://auth.example.org/":            {"https://auth.example.org/.well-known/openid-configuration", "https://auth.example.org/.well-known/oauth-authorization-server"},
		"https://auth.example.org:8443/t/a":    {"https://auth.example.org:8443/t/a/.well-known/openid-configuration", "https://auth.example.org:8443/.well-known/oauth-authorization-server/t/a"},
		"https://auth.example.org/t/a/":        {"https://auth.example.org/t/a/.well-known/openid-configuration", "https://auth.example.org/.well-known/oauth-authorization-server/t/a"},
		"https://auth.example.org/t%2Fa":       {"https://auth.example.org/t%2Fa/.well-known/openid-configuration", "https://auth.example.org/.well-known/oauth-authorization-server/t%2Fa"},
		"http://127.0.0.1:9000/realms/a":       {"http://127.0.0.1:9000/realms/a/.well-known/openid-configuration", "http://127.0.0.1:9000/.well-known/oauth-authorization-server/realms/a"},
		"https://[2001:db8::1]:8443/realms/a/": {"https://[2001:db8::1]:8443/realms/a/.well-known/openid-configuration", "https://[2001:db8::1]:8443/.well-known/oauth-authorization-server/realms/a"},
	} {
		for found := range want {
			i := newIssuer()
			i.at(want[found], 200, fmt.Sprintf(`{"issuer":%q}`, of))
			s := newSource(t, i.of(func(c *Config) { c.Issuer = of }))
			if err := s.Discover(context.Background()); err != nil {
				t.Errorf("%s: %v", of, err)
			}
			var expected []string
			for _, address := range want[:found+1] {
				expected = append(expected, "GET "+address)
			}
			if got := i.requests(); !slices.Equal(got, expected) {
				t.Errorf("%s: asked %q, want %q", of, got, expected)
			}
		}
	}
}

func TestARequestForMetadataHoldsNoSecret(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	s := newSource(t, i.of(func(c *Config) {
		c.TokenRequest.Header = []Header{{Name: "X-Api-Key", Value: "canary"}}
		c.Params = []Param{param("api_key", "canary")}
	}))
	if err := s.Discover(context.Background()); err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(i.asked, i.bodies, i.headers); strings.Contains(text, "canary") || i.headers[0].Get("User-Agent") != agent {
		t.Errorf("%s", text)
	}
}

func TestMetadataThatCannotBeReliedOnAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string, fields ...string) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) {
			r := madeUp(status, body)
			for i := 0; i < len(fields); i += 2 {
				r.Header.Set(fields[i], fields[i+1])
			}
			return r, nil
		}
	}
	for name, c := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		want   string
	}{
		"another issuer":        {answer(200, published("issuer", `"https://evil.example"`)), `they are of the issuer "https://evil.example", and not of the configured one`},
		"another slash":         {answer(200, published("issuer", `"`+realm+`/"`)), "they are of the issuer"},
		"another case":          {answer(200, published("issuer", `"https://AUTH.example.org/realms/a"`)), "they are of the issuer"},
		"no issuer":             {answer(200, published("issuer", "-")), `they are of the issuer ""`},
		"a long issuer":         {answer(200, published("issuer", `"`+strings.Repeat("x", 5000)+`"`)), "they are of the issuer"},
		"control characters":    {answer(200, published("issuer", `"a\u001b[31m\n"`)), "they are of the issuer"},
		"not JSON":              {answer(200, "<html>"), "they are not JSON"},
		"broken off":            {answer(200, published()[:50]), "they are not JSON"},
		"a list":                {answer(200, "["+published()+"]"), "they are not JSON"},
		"nothing":               {answer(200, ""), "they are not JSON"},
		"of wrong types":        {answer(200, published("token_endpoint", "7")), "they are not JSON as RFC 8414 has it"},
		"too large":             {answer(200, published("x", `"`+strings.Repeat("x", maxAnswer)+`"`)), "they are larger than 1 MiB"},
		"nowhere":               {answer(404, ""), "auth.example.org has none here, HTTP status 404"},
		"forbidden":             {answer(403, published()), "auth.example.org has none here, HTTP status 403"},
		"down":                  {answer(503, ""), "HTTP status 503"},
		"another success":       {answer(206, published()), "HTTP status 206"},
		"a redirect":            {answer(302, published(), "Location", "https://login.example.org/canary"), "a redirect to login.example.org, which is not followed"},
		"a redirect on it":      {answer(301, "", "Location", "/canary"), "a redirect to another place on the same host"},
		"no network":            {func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, "auth.example.org: the connection was closed before an answer came"},
		"http":                  {answer(200, published("token_endpoint", `"http://auth.example.org/token"`)), "token_endpoint: "},
		"http on loopback":      {answer(200, published("token_endpoint", `"http://127.0.0.1/token"`)), "token_endpoint: it is plain http, and the issuer is not"},
		"no URL":                {answer(200, published("authorization_endpoint", `"javascript:alert(1)"`)), "authorization_endpoint: a whole URL is needed"},
		"a user":                {answer(200, published("authorization_endpoint", `"https://u:canary@auth.example.org/"`)), "authorization_endpoint: the URL holds a user name"},
		"a fragment or a blank": {answer(200, published("revocation_endpoint", `"https://auth.example.org/a b"`)), "revocation_endpoint: "},
		"a relative one":        {answer(200, published("device_authorization_endpoint", `"/device"`)), "device_authorization_endpoint: "},
	} {
		i := newIssuer()
		i.does(realmKnown, c.answer)
		s := newSource(t, i.of(credentials))
		err := s.Discover(context.Background())
		if err == nil {
			t.Errorf("%s: they are taken", name)
			continue
		}
		e := failureOf(t, err)
		if !strings.HasPrefix(e.Reason, "the issuer's metadata: ") || !strings.Contains(e.Error(), c.want) || len(e.Reason) > maxDescription ||
			strings.Contains(everyText(e), "canary") || strings.ContainsAny(e.Error(), "\n\x1b") {
			t.Errorf("%s: %q", name, e.Error())
		}
		token, failure := ask(t, s, nil)
		if e := mustFail(t, token, failure); e.Permanent {
			t.Errorf("%s: it is never tried again", name)
		}
		for _, asked := range i.requests() {
			if !strings.Contains(asked, "/.well-known/") {
				t.Errorf("%s: %s", name, asked)
			}
		}
	}
}

func TestMetadataDoNotLeadIntoThisMachineOrItsLink(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST.", "x.localhost", "169.254.169.254", "[fe80::1]", "0.0.0.0", "[::]",
		"[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "127.0.0.1:8443",
	} {
		for _, name := range []string{"authorization_endpoint", "token_endpoint", "device_authorization_endpoint", "revocation_endpoint"} {
			i := newIssuer(name, `"https://`+host+`/x"`)
			err := newSource(t, i.of()).Discover(context.Background())
			if err == nil || !strings.Contains(err.Error(), name+": it is an address of this machine") {
				t.Errorf("%s at %s: %v", name, host, err)
			}
		}
	}
	for of, endpoint := range map[string]string{
		"http://127.0.0.1:9000": "http://localhost:9001/token", "https://localhost": "https://127.0.0.1/token",
		"http://[::1]:9000": "https://auth.example.org/token", "https://10.0.0.1": "https://10.0.0.2/token",
	} {
		i := newIssuer()
		i.at(of+"/.well-known/openid-configuration", 200, fmt.Sprintf(`{"issuer":%q,"token_endpoint":%q}`, of, endpoint))
		if err := newSource(t, i.of(func(c *Config) { c.Issuer = of })).Discover(context.Background()); err != nil {
			t.Errorf("%s: %v", of, err)
		}
	}
}

func TestAnIssuerInAPlaceholderIsCheckedLikeAnyOther(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	v := newVault()
	s := newSource(t, i.of(credentials, func(c *Config) { c.Issuer, c.Lookup = "https://auth.example.org/realms/{env.realm}", v.lookup }))
	e := failureOf(t, s.Discover(context.Background()))
	if want := "issuer: the placeholder {env.realm} is empty or cannot be read"; e.Reason != want || !e.Permanent || e.Changed() {
		t.Errorf("%v", e)
	}
	v.set("env.realm", "a")
	if !e.Changed() {
		t.Error("one that is there now is no change")
	}
	token, failure := ask(t, s, nil)
	must(t, token, failure)
	for _, bad := range []string{"a?canary=1", "a b", "a/.well-known/openid-configuration"} {
		v.set("env.realm", bad)
		again := newSource(t, s.config)
		e := failureOf(t, again.Discover(context.Background()))
		if !strings.HasPrefix(e.Reason, "issuer: ") || strings.Contains(everyText(e), "canary") {
			t.Errorf("%s: %v", bad, e)
		}
	}
}

func TestMetadataSayWhatIsNotWrittenAndNothingElse(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	s := newSource(t, i.of())
	a := authorize(t, s, "state")
	if !strings.HasPrefix(a.URL, realm+"/authorize?") || a.Issuer != realm || a.IssuerRequired {
		t.Errorf("%+v", a)
	}
	exchanged(t, s, a, "code")
	if revoked, err := s.Revoke(context.Background(), bothTokens); err != nil || !revoked {
		t.Errorf("%v, %v", revoked, err)
	}
	if got, want := i.requests(), []string{"GET " + realmKnown, "POST " + realmToken, "POST " + realm + "/revoke", "POST " + realm + "/revoke"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	device := newSource(t, i.of(func(c *Config) { c.Grant = "device_code" }))
	if _, err := device.AuthorizeDevice(context.Background()); err != nil {
		t.Error(err)
	}
	if got, want := i.requests(), []string{"GET " + realmKnown, "POST " + realm + "/device"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}

	written := func(c *Config) {
		c.AuthorizeURL, c.TokenURL = "https://written.example.org/authorize", "https://written.example.org/token"
		c.DeviceURL, c.RevokeURL = "https://written.example.org/device", "https://written.example.org/revoke"
	}
	i.at("https://written.example.org/token", 200, `{"access_token":"at"}`)
	i.at("https://written.example.org/device", 200, shown())
	i.at("https://written.example.org/revoke", 200, "")
	s = newSource(t, i.of(written))
	a = authorize(t, s, "state")
	if !strings.HasPrefix(a.URL, "https://written.example.org/authorize?") || a.Issuer != realm {
		t.Errorf("%+v", a)
	}
	exchanged(t, s, a, "code")
	_, _ = s.Revoke(context.Background(), bothTokens)
	device = newSource(t, i.of(written, func(c *Config) { c.Grant = "device_code" }))
	if _, err := device.AuthorizeDevice(context.Background()); err != nil {
		t.Error(err)
	}
	for _, asked := range i.requests() {
		if asked != "GET "+realmKnown && !strings.HasPrefix(asked, "POST https://written.example.org/") {
			t.Errorf("asked %s", asked)
		}
	}
}

func TestWhatTheMetadataDoNotNameMustBeWritten(t *testing.T) {
	t.Parallel()
	_, err := newSource(t, newIssuer("authorization_endpoint", "-").of()).Authorize(context.Background(), "state")
	if e := failureOf(t, err); !strings.Contains(e.Reason, "authorize_url") {
		t.Errorf("%v", e)
	}
	i := newIssuer("token_endpoint", "-", "device_authorization_endpoint", "-", "revocation_endpoint", "-")
	s := newSource(t, i.of())
	_, err = s.Exchange(context.Background(), &Authorization{}, "code")
	if e := failureOf(t, err); !strings.HasPrefix(e.Reason, "token_url: ") {
		t.Errorf("%v", e)
	}
	_, err = newSource(t, i.of(func(c *Config) { c.Grant = "device_code" })).AuthorizeDevice(context.Background())
	if e := failureOf(t, err); !strings.HasPrefix(e.Reason, "device_url: ") {
		t.Errorf("%v", e)
	}
	if revoked, err := s.Revoke(context.Background(), bothTokens); err != nil || revoked {
		t.Errorf("%v, %v", revoked, err)
	}
}

func TestPKCEIsUsedWhateverTheMetadataSay(t *testing.T) {
	t.Parallel()
	for said, good := range map[string]bool{"-": true, "[]": true, "null": true, `["S256"]`: true, `["plain","S256"]`: true, `["plain"]`: false, `["s256"]`: false} {
		i := newIssuer("code_challenge_methods_supported", said)
		a, err := newSource(t, i.of()).Authorize(context.Background(), "state")
		switch {
		case good && (err != nil || !strings.Contains(a.URL, "code_challenge_method=S256")):
			t.Errorf("%s: %v, %v", said, a, err)
		case !good && (err == nil || !strings.Contains(failureOf(t, err).Reason, "pkce off")):
			t.Errorf("%s: %v, %v", said, a, err)
		}
		if a := authorize(t, newSource(t, i.of(func(c *Config) { c.PKCE = "off" })), "state"); a.Verifier != "" || strings.Contains(a.URL, "challenge") {
			t.Errorf("%s: off, and %+v", said, a)
		}
	}
}

func TestAnIssuerThatAnnouncesItMustSayThatAnAnswerIsItsOwn(t *testing.T) {
	t.Parallel()
	i := newIssuer("authorization_response_iss_parameter_supported", "true")
	a := authorize(t, newSource(t, i.of()), "state")
	if !a.IssuerRequired {
		t.Errorf("%+v", a)
	}
	for said, good := range map[string]bool{realm: true, "": false, "https://evil.example": false} {
		if err := a.Check(Callback{Code: "c", State: "state", Issuer: said, Whole: true}); (err == nil) != good {
			t.Errorf("%q: %v", said, err)
		}
	}
}

func TestTheClientProvesItselfAsTheIssuerWantsUnlessItIsWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		said, secret, written string
		want                  string
	}{
		{"-", "s", "", "client_secret_basic"},
		{`[]`, "s", "", "client_secret_basic"},
		{`["client_secret_post"]`, "s", "", "client_secret_post"},
		{`["client_secret_post","client_secret_basic"]`, "s", "", "client_secret_basic"},
		{`["private_key_jwt","none"]`, "s", "", "client_secret_basic"},
		{`["private_key_jwt","client_secret_post"]`, "s", "", "client_secret_post"},
		{`["client_secret_post"]`, "s", "client_secret_basic", "client_secret_basic"},
		{`["client_secret_basic"]`, "s", "client_secret_post", "client_secret_post"},
		{`["client_secret_basic"]`, "", "", "none"},
	} {
		i := newIssuer("token_endpoint_auth_methods_supported", c.said)
		s := newSource(t, i.of(credentials, func(config *Config) { config.ClientSecret, config.ClientAuth = c.secret, c.written }))
		token, failure := ask(t, s, nil)
		must(t, token, failure)
		r := recorded{target: "/", header: i.headers[1], body: i.bodies[1]}
		got := "none"
		if _, _, ok := basic(r); ok {
			got = "client_secret_basic"
		} else if r.inBody(t).Has("client_secret") {
			got = "client_secret_post"
		}
		if got != c.want {
			t.Errorf("%s, with the secret %q and client_auth %q: %s, want %s", c.said, c.secret, c.written, got, c.want)
		}
	}
}

func TestEveryEndpointIsToldWhoTheClientIsInTheSameWay(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"client_secret_post", "client_secret_basic"} {
		i := newIssuer("token_endpoint_auth_methods_supported", `["`+method+`"]`)
		s := newSource(t, i.of(func(c *Config) { c.Grant = "device_code" }))
		d, err := s.AuthorizeDevice(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.ExchangeDevice(context.Background(), d)
		if err != nil {
			t.Fatal(err)
		}
		again, failure := ask(t, s, token)
		if _, err := s.Revoke(context.Background(), must(t, again, failure)); err != nil {
			t.Fatal(err)
		}
		for n, asked := range i.asked[1:] {
			_, secret, byHeader := basic(recorded{header: i.headers[n+1]})
			byForm := strings.Contains(i.bodies[n+1], "client_secret=canary-client-secret")
			if byHeader != (method == "client_secret_basic") || byForm == byHeader || byHeader && secret != "canary-client-secret-of-32-bytes-and-more" {
				t.Errorf("%s: %s: in the header %v, in the form %v", method, asked, byHeader, byForm)
			}
		}
		if len(i.asked) != 6 {
			t.Errorf("asked %q", i.asked)
		}
	}
}

func TestMetadataAreFetchedOnceUntilTheyAreAnHourOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newSource(t, i.of())
		for range 3 {
			authorize(t, s, "state")
			exchanged(t, s, &Authorization{}, "code")
		}
		count := func() (n int) {
			for _, asked := range i.requests() {
				if strings.HasPrefix(asked, "GET ") {
					n++
				}
			}
			return n
		}
		if n := count(); n != 1 {
			t.Errorf("they were fetched %d times", n)
		}
		time.Sleep(2 * time.Hour)
		token, failure := ask(t, s, withRefresh("rt")) // a renewal goes on with them
		must(t, token, failure)
		if n := count(); n != 0 {
			t.Errorf("a renewal fetches them %d times", n)
		}
		authorize(t, s, "state")
		if n := count(); n != 1 {
			t.Errorf("hours later they were fetched %d times", n)
		}
	})
}

func TestAfterAFailureMetadataAreFetchedAgain(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	i.at(realmKnown, 503, "")
	s := newSource(t, i.of(credentials))
	token, failure := ask(t, s, nil)
	if e := mustFail(t, token, failure); e.StatusCode != 503 || e.Permanent {
		t.Errorf("%v", e)
	}
	i.at(realmKnown, 200, published())
	token, failure = ask(t, s, nil)
	must(t, token, failure)

	// The token endpoint moves.
	for name, gone := range map[string]func(*http.Request) (*http.Response, error){
		"a page":     func(*http.Request) (*http.Response, error) { return madeUp(404, "<html>"), nil },
		"no network": func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF },
		"a redirect": func(*http.Request) (*http.Response, error) { return madeUp(302, ""), nil },
	} {
		i.at(realmKnown, 200, published())
		i.at(realmToken, 200, `{"access_token":"at"}`)
		s := newSource(t, i.of(credentials))
		token, failure = ask(t, s, nil)
		first := must(t, token, failure)
		i.does(realmToken, gone)
		i.at(realm+"/v2/token", 200, `{"access_token":"at-2"}`)
		i.at(realmKnown, 200, published("token_endpoint", `"`+realm+`/v2/token"`))
		token, failure = ask(t, s, first)
		mustFail(t, token, failure)
		token, failure = ask(t, s, first)
		if got := must(t, token, failure); got.AccessToken != "at-2" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestARefusalByTheTokenEndpointIsNoDoubtOfTheMetadata(t *testing.T) {
	t.Parallel()
	for status, body := range map[int]string{400: object("error", "invalid_grant"), 401: object("error", "invalid_client"), 429: ""} {
		i := newIssuer()
		s := newSource(t, i.of(credentials))
		if err := s.Discover(context.Background()); err != nil {
			t.Fatal(err)
		}
		i.at(realmToken, status, body)
		i.requests()
		for range 2 {
			token, failure := ask(t, s, nil)
			mustFail(t, token, failure)
		}
		if got := i.requests(); !slices.Equal(got, []string{"POST " + realmToken, "POST " + realmToken}) {
			t.Errorf("%d: asked %q", status, got)
		}
	}
}

func TestARenewalInAnotherProcessNeedsNoMetadata(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"client_secret_post", "client_secret_basic"} {
		i := newIssuer("token_endpoint_auth_methods_supported", `["`+how+`"]`)
		s := newSource(t, i.of())
		text, err := exchanged(t, s, authorize(t, s, "state"), "code").Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		i.at(realmKnown, 503, "")
		i.requests()
		next := newSource(t, i.of())
		for range 3 {
			token, failure := ask(t, next, again)
			if again = must(t, token, failure); again.found == nil || again.found.URL != realmToken || again.found.ClientAuth != how {
				t.Errorf("%+v", again.found)
			}
			_, secret, _ := basic(recorded{header: i.headers[0]})
			if inBody := strings.Contains(i.bodies[0], "client_secret"); inBody != (how == "client_secret_post") || (secret != "") == inBody {
				t.Errorf("%s: %q", how, i.bodies[0])
			}
			if got := i.requests(); !slices.Equal(got, []string{"POST " + realmToken}) {
				t.Errorf("asked %q", got)
			}
		}
		i.at(realmToken, 503, "") // and where it fails, nobody is stuck with it
		token, failure := ask(t, next, again)
		mustFail(t, token, failure)
		i.at(realmToken, 200, `{"access_token":"at"}`)
		token, failure = ask(t, next, again)
		must(t, token, failure)
	}
}

func TestAWrittenTokenURLIsUsedWhereTheMetadataCannotBeHad(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	i.at(realmKnown, 503, "")
	s := newSource(t, i.of(credentials, func(c *Config) { c.TokenURL = realmToken }))
	token, failure := ask(t, s, nil)
	must(t, token, failure)
	i.requests()
	s = newSource(t, i.of(credentials, func(c *Config) { c.TokenURL, c.ClientAuth = realmToken, "client_secret_post" }))
	token, failure = ask(t, s, nil)
	must(t, token, failure)
	if got := i.requests(); !slices.Equal(got, []string{"POST " + realmToken}) {
		t.Errorf("asked %q", got)
	}
}

func TestMetadataThatDoNotComeAreGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.does(realmKnown, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		s := newSource(t, i.of(credentials, func(c *Config) { c.Timeout = 3 * time.Second }))
		began := time.Now()
		token, failure := ask(t, s, nil)
		if e := mustFail(t, token, failure); e.Permanent || !strings.Contains(e.Reason, "auth.example.org: no complete answer in time") {
			t.Errorf("%v", e)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestReadyIsWhatNeedsNoTokenRequest(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	v := newVault()
	s := newSource(t, i.of(func(c *Config) { c.ClientSecret, c.Lookup = "{file./secret}", v.lookup }))
	if e := failureOf(t, s.Ready(context.Background())); !strings.HasPrefix(e.Reason, "client_secret: ") {
		t.Errorf("%v", e)
	}
	v.set("file./secret", "canary")
	if err := s.Ready(context.Background()); err != nil {
		t.Error(err)
	}
	if got := i.requests(); !slices.Equal(got, []string{"GET " + realmKnown}) {
		t.Errorf("asked %q", got)
	}
	i.at(realmKnown, 503, "")
	if e := failureOf(t, newSource(t, i.of()).Ready(context.Background())); e.StatusCode != 503 {
		t.Errorf("%v", e)
	}
}
