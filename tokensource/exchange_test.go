package tokensource

import (
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const tokenExchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"

func TestAnExchangeSaysWhichTokensOfWhichTypes(t *testing.T) {
	t.Parallel()
	const types = "urn:ietf:params:oauth:token-type:"
	for name, test := range map[string]struct {
		change func(*Config)
		want   url.Values
	}{
		"a subject":   {func(*Config) {}, url.Values{"subject_token_type": {types + "access_token"}}},
		"of a type":   {func(c *Config) { c.SubjectTokenType = "jwt" }, url.Values{"subject_token_type": {types + "jwt"}}},
		"a whole URN": {func(c *Config) { c.SubjectTokenType = "urn:x:type:ours" }, url.Values{"subject_token_type": {"urn:x:type:ours"}}},
		"an actor": {func(c *Config) { c.ActorToken = "who" },
			url.Values{"subject_token_type": {types + "access_token"}, "actor_token": {"who"}, "actor_token_type": {types + "access_token"}}},
		"an actor of a type": {func(c *Config) { c.ActorToken, c.ActorTokenType, c.SubjectTokenType = "who", "saml2", "id_token" },
			url.Values{"subject_token_type": {types + "id_token"}, "actor_token": {"who"}, "actor_token_type": {types + "saml2"}}},
		"scopes": {scopes("", "a", "b"), url.Values{"subject_token_type": {types + "access_token"}, "scope": {"a b"}}},
		"parameters": {allParams(param("audience", "x"), param("resource", "https://a.example"), param("resource", "https://b.example"), param("requested_token_type", types+"jwt")),
			url.Values{"subject_token_type": {types + "access_token"}, "audience": {"x"}, "resource": {"https://a.example", "https://b.example"}, "requested_token_type": {types + "jwt"}}},
		"a client": {func(c *Config) { c.ClientID, c.ClientSecret, c.ClientAuth = "crm", "s", "client_secret_post" },
			url.Values{"subject_token_type": {types + "access_token"}, "client_id": {"crm"}, "client_secret": {"s"}}},
	} {
		d := newDesk(madeUp(200, `{"access_token":"at","issued_token_type":"`+types+`access_token","token_type":"N_A","expires_in":60}`))
		c := d.config("", grant("token_exchange"), func(c *Config) { c.ClientID, c.SubjectToken = "", "theirs" }, test.change)
		token, failure := obtain(t, c, nil)
		if got := must(t, token, failure); got.AccessToken != "at" || got.Lifetime != time.Minute {
			t.Errorf("%s: %+v", name, got)
		}
		test.want.Set("grant_type", tokenExchangeGrant)
		test.want.Set("subject_token", "theirs")
		if got := d.last(t).form; !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: arrived %v, want %v", name, got, test.want)
		}
	}
}

func TestTheTypeOfATokenIsOneOfTheRFCsOrAWholeURI(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt", "urn:x", "https://types.example.org/a"} {
		if err := CheckTokenType(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"token", "JWT", "access-token", "urn:a b", "urn:{env.X}", " ", "saml"} {
		if CheckTokenType(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func TestTokensThatAreExchangedAreReadAtEachExchange(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	v := newVault("file./s", "subject-1\n", "file./a", "actor-1")
	s := newSource(t, d.config("", grant("token_exchange"), func(c *Config) {
		c.SubjectToken, c.ActorToken, c.Lookup = "{file./s}", "{file./a}", v.lookup
	}))
	for _, n := range []string{"1", "2"} {
		v.set("file./s", "subject-"+n+"\n")
		v.set("file./a", "actor-"+n)
		token, failure := ask(t, s, nil)
		must(t, token, failure)
		if got := d.last(t).form; got.Get("subject_token") != "subject-"+n || got.Get("actor_token") != "actor-"+n {
			t.Errorf("arrived %v", got)
		}
	}
	v.set("file./s", "")
	token, failure := ask(t, s, nil)
	e := mustFail(t, token, failure)
	if e.Reason != "subject_token: the placeholder {file./s} is empty or cannot be read" || !e.Permanent || e.Changed() {
		t.Errorf("%v", e)
	}
	if v.set("file./s", "subject-3"); !e.Changed() {
		t.Error("a subject that is there now is no change")
	}
}

// TestAnExchangedTokenIsRefreshedWithoutItsSubject holds that a refresh token in the
// answer is used, and that the subject begins anew where that is refused.
func TestAnExchangedTokenIsRefreshedWithoutItsSubject(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","expires_in":60}`), madeUp(200, `{"access_token":"at-2","expires_in":60}`),
		madeUp(400, object("error", "invalid_grant")), madeUp(200, deskIssued))
	v := newVault("file./s", "theirs")
	s := newSource(t, d.config("", grant("token_exchange"), func(c *Config) { c.SubjectToken, c.Lookup = "{file./s}", v.lookup }))
	token, failure := ask(t, s, nil)
	token = must(t, token, failure)
	v.set("file./s", "")
	token, failure = ask(t, s, token)
	token = must(t, token, failure)
	if got := d.last(t).form; got.Get("grant_type") != "refresh_token" || got.Has("subject_token") {
		t.Errorf("refreshed with %v", got)
	}
	v.set("file./s", "theirs-2")
	token, failure = ask(t, s, token)
	must(t, token, failure)
	if got := d.last(t).form; got.Get("grant_type") != tokenExchangeGrant || got.Get("subject_token") != "theirs-2" {
		t.Errorf("begun anew with %v", got)
	}
}

// TestNoTokenThatIsExchangedIsPartOfAnError has a provider echo them in all ways.
func TestNoTokenThatIsExchangedIsPartOfAnError(t *testing.T) {
	t.Parallel()
	const subject, actor = "canary-subject-0123456789abcdef", "canary-actor-0123456789abcdef"
	for where, echo := range echoes {
		d := &desk{answer: func(int, deskRequest) *http.Response { return record(echo(subject + "  " + actor)) }}
		for _, caller := range []bool{false, true} {
			c := d.config("", grant("token_exchange"), func(c *Config) { c.SubjectToken, c.ActorToken = subject, actor })
			var token *Token
			var err error
			if caller {
				c.SubjectToken = Caller
				token, err = newSource(t, c).ObtainFor(t.Context(), subject, nil)
			} else {
				token, err = newSource(t, c).Obtain(t.Context(), nil)
			}
			e, ok := err.(*Error)
			if !ok || token != nil {
				t.Fatalf("%s: %v, %v", where, token, err)
			}
			silent(t, where, e, subject, actor)
			if e.Changed != nil {
				e.Changed()
			}
		}
	}
}

// unsignedJWT is a token as somebody else issues them.
func unsignedJWT(claims string) string {
	return b64([]byte(`{"alg":"RS256"}`)) + "." + b64([]byte(claims)) + "." + b64([]byte(claims[:1]))
}

// TestASubjectIsWhomATokenIsOf holds whose tokens can be gone on with: those of the
// same subject, whose own token is renewed now and then, and of nobody else.
func TestASubjectIsWhomATokenIsOf(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	v := newVault("file./s", unsignedJWT(`{"iss":"a","sub":"peter","exp":1}`), "file./a", "opaque-1")
	s := newSource(t, d.config("", grant("token_exchange"), func(c *Config) {
		c.SubjectToken, c.ActorToken, c.Lookup = "{file./s}", "{file./a}", v.lookup
	}))
	token, failure := ask(t, s, nil)
	first := must(t, token, failure)
	for _, test := range []struct {
		name, file, text string
		want             bool
	}{
		{"the same", "file./s", unsignedJWT(`{"iss":"a","sub":"peter","exp":1}`), true},
		{"renewed", "file./s", unsignedJWT(`{"iss":"a","sub":"peter","exp":2,"jti":"x"}`) + "\n", true},
		{"another subject", "file./s", unsignedJWT(`{"iss":"a","sub":"paula","exp":1}`), false},
		{"another issuer", "file./s", unsignedJWT(`{"iss":"b","sub":"peter","exp":1}`), false},
		{"names that run together", "file./s", unsignedJWT(`{"iss":"a peter","sub":"","exp":1}`), false},
		{"opaque", "file./s", "opaque", false},
		{"none", "file./s", "", false},
		{"the same again", "file./s", unsignedJWT(`{"sub":"peter","iss":"a"}`), true},
		{"another actor", "file./a", "opaque-2", false},
		{"the same actor", "file./a", "opaque-1", true},
	} {
		v.set(test.file, test.text)
		if got := s.Takes(first); got != test.want {
			t.Errorf("%s: goes on with its token: %v", test.name, got)
		}
	}
}

// TestWhoAsksIsPartOfTheIdentity holds it of the options by which a client or a
// subject is told from another; what proves them may change.
func TestWhoAsksIsPartOfTheIdentity(t *testing.T) {
	t.Parallel()
	key, other := newKey(t, "P-256"), newKey(t, "RSA")
	identity := func(c Config) string {
		t.Helper()
		id, err := newSource(t, c).Identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	renamed := func(name string) string { return strings.ReplaceAll(toServiceAccount(t, key), robot, name) }
	for name, test := range map[string]struct {
		a, b func(*Config)
		same bool
	}{
		"another key of a client":       {func(c *Config) { c.PrivateKey = toPEM(t, key) }, func(c *Config) { c.PrivateKey = toPEM(t, other) }, true},
		"another client":                {func(*Config) {}, func(c *Config) { c.ClientID = "billing" }, false},
		"another key of an account":     {byAccount(toServiceAccount(t, key)), byAccount(toServiceAccount(t, other)), true},
		"another account":               {byAccount(renamed("a@x.example")), byAccount(renamed("b@x.example")), false},
		"an account, with a mark":       {byAccount(renamed("a@x.example")), byAccount("\xef\xbb\xbf" + renamed("a@x.example")), true},
		"another account, with a mark":  {byAccount("\xef\xbb\xbf" + renamed("a@x.example")), byAccount("\xef\xbb\xbf" + renamed("b@x.example")), false},
		"for somebody else":             {changed(grant("jwt_bearer"), claim("sub", "a")), changed(grant("jwt_bearer"), claim("sub", "b")), false},
		"for the same":                  {changed(grant("jwt_bearer"), claim("sub", "a")), changed(grant("jwt_bearer"), claim("sub", "a")), true},
		"of another issuer":             {changed(grant("jwt_bearer"), claim("iss", "a")), changed(grant("jwt_bearer"), claim("iss", "b")), false},
		"a claim of the client":         {claim("aud", "a"), claim("aud", "b"), true},
		"another way of the client":     {clientAuth("private_key_jwt"), func(c *Config) { c.ClientAuth, c.ClientSecret = "client_secret_jwt", "s" }, true},
		"another way to sign":           {func(c *Config) { c.SigningAlg = "RS256" }, func(c *Config) { c.SigningAlg, c.KeyID = "PS256", "9" }, true},
		"another audience by parameter": {allParams(param("audience", "a")), allParams(param("audience", "b")), false},
	} {
		d := newDesk(madeUp(200, deskIssued))
		if got := identity(d.config(toPEM(t, key), test.a)) == identity(d.config(toPEM(t, key), test.b)); got != test.same {
			t.Errorf("%s: the same: %v", name, got)
		}
	}
}

// TestAnAccountIsNotMistakenWhileItsFileIsWritten holds that half of a file is
// nobody, rather than somebody else.
func TestAnAccountIsNotMistakenWhileItsFileIsWritten(t *testing.T) {
	t.Parallel()
	text := toServiceAccount(t, newKey(t, "P-256"))
	d := newDesk(madeUp(200, deskIssued))
	v := newVault("file./key", text)
	s := newSource(t, d.config("", byAccount("{file./key}"), func(c *Config) { c.Lookup = v.lookup }))
	want, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(strings.TrimSpace(text)); n += 7 {
		v.set("file./key", text[:n])
		if got, err := s.Identity(); err == nil {
			t.Fatalf("%d bytes: the identity %s, and that of the whole is %s", n, got, want)
		}
	}
}

func byAccount(text string) func(*Config) {
	return func(c *Config) { c.Grant, c.ClientID, c.PrivateKey = "jwt_bearer", "", text }
}

func changed(changes ...func(*Config)) func(*Config) {
	return func(c *Config) {
		for _, change := range changes {
			change(c)
		}
	}
}

// TestTheEndpointsOfMutualTLSAreForThoseWithACertificate holds RFC 8705, section 5.
func TestTheEndpointsOfMutualTLSAreForThoseWithACertificate(t *testing.T) {
	t.Parallel()
	const mutual = "https://mtls.example.org"
	for _, alias := range []string{
		`{"token_endpoint":"` + mutual + `/token","revocation_endpoint":"` + mutual + `/revoke","device_authorization_endpoint":"` + mutual + `/device"}`,
		`{"token_endpoint":"` + mutual + `/token"}`, `{}`, "-",
	} {
		for _, certificate := range []bool{false, true} {
			for _, auth := range []string{"tls_client_auth", "self_signed_tls_client_auth", "private_key_jwt", "none"} {
				i := newIssuer("mtls_endpoint_aliases", alias)
				answer := i.answers[realmToken]
				i.does(mutual+"/token", answer)
				i.at(mutual+"/revoke", 200, "")
				i.at(mutual+"/device", 200, shown())
				c := i.of(credentials, clientAuth(auth), func(c *Config) {
					c.ClientCertificate, c.ClientSecret, c.PrivateKey = certificate, "", pemKey(t, "P-256")
				})
				s := newSource(t, c)
				token, failure := ask(t, s, nil)
				first := must(t, token, failure)
				if _, err := s.Revoke(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				want := []string{"GET " + realmKnown, "POST " + realmToken, "POST " + realm + "/revoke", "POST " + realm + "/revoke"}
				if certificate && strings.Contains(alias, "token_endpoint") {
					want[1] = "POST " + mutual + "/token"
				}
				if certificate && strings.Contains(alias, "revoke") {
					want[2], want[3] = "POST "+mutual+"/revoke", "POST "+mutual+"/revoke"
				}
				body := i.bodies[1]
				if got := i.requests(); !slices.Equal(got, want) {
					t.Errorf("%s, certificate %v, %s: asked %q, want %q", alias, certificate, auth, got, want)
				}
				form, err := url.ParseQuery(body)
				if err != nil || form.Get("client_id") != "crm" || form.Has("client_secret") || form.Has("client_assertion") != (auth == "private_key_jwt") {
					t.Errorf("%s: arrived %v", auth, form)
				}
			}
		}
	}
}

// TestAnAliasIsHeldToTheSameRules holds that metadata lead nowhere by it.
func TestAnAliasIsHeldToTheSameRules(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"http://mtls.example.org/token", "https://127.0.0.1/token", "https://u:p@mtls.example.org/", "mtls.example.org", "https://[::1]/token", "file:///etc/passwd"} {
		for _, field := range []string{"token_endpoint", "revocation_endpoint", "device_authorization_endpoint"} {
			i := newIssuer("mtls_endpoint_aliases", fmt.Sprintf(`{%q:%q}`, field, address))
			token, failure := obtain(t, i.of(credentials, func(c *Config) { c.ClientCertificate = true }), nil)
			if e := mustFail(t, token, failure); !e.Discovery || !strings.Contains(e.Reason, field) {
				t.Errorf("%s %s: %v", field, address, e)
			}
			if got := i.requests(); len(got) != 1 {
				t.Errorf("%s %s: asked %q", field, address, got)
			}
		}
	}
}

func TestEachCallersTokenIsExchangedAndLivesNoLongerThanThat(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","expires_in":3600}`))
	s := newSource(t, d.config("", grant("token_exchange"), func(c *Config) { c.SubjectToken = Caller }))
	now := time.Now()
	for name, test := range map[string]struct {
		subject string
		at      time.Duration // at most
	}{
		"opaque":           {"opaque-token-of-a-caller", time.Hour},
		"ends soon":        {unsignedJWT(fmt.Sprintf(`{"sub":"peter","exp":%d}`, now.Add(5*time.Minute).Unix())), 5 * time.Minute},
		"ends later":       {unsignedJWT(fmt.Sprintf(`{"sub":"peter","exp":%d}`, now.Add(5*time.Hour).Unix())), time.Hour},
		"does not say":     {unsignedJWT(`{"sub":"peter"}`), time.Hour},
		"says nonsense":    {unsignedJWT(`{"sub":"peter","exp":"soon"}`), time.Hour},
		"says nothing new": {unsignedJWT(`{"sub":"peter","exp":-5}`), time.Hour},
	} {
		token, err := s.ObtainFor(t.Context(), test.subject, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if token.RefreshToken != "" || token.Lifetime > test.at || token.Lifetime < test.at-time.Minute {
			t.Errorf("%s: %v, refresh token %q", name, token.Lifetime, token.RefreshToken)
		}
		if got := d.last(t).form; got.Get("subject_token") != test.subject || got.Get("grant_type") != tokenExchangeGrant {
			t.Errorf("%s: arrived %v", name, got)
		}
		next, err := s.ObtainFor(t.Context(), test.subject, token)
		if err != nil || d.last(t).form.Has("refresh_token") || next.RefreshToken != "" {
			t.Errorf("%s: renewed with %v: %v", name, d.last(t).form, err)
		}
	}
	before := len(d.arrived())
	_, err := s.ObtainFor(t.Context(), unsignedJWT(fmt.Sprintf(`{"sub":"peter","exp":%d}`, now.Add(-time.Minute).Unix())), nil)
	if e, ok := err.(*Error); !ok || e.Code != "invalid_token" || len(d.arrived()) != before {
		t.Errorf("of a token that has ended: %v, %d requests", err, len(d.arrived())-before)
	}
}
