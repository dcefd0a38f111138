package tokensource

import (
	"crypto"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAClientsAssertionSaysWhoItIsAndToWhom(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	plain := toPEM(t, key)
	type claims = map[string]any
	const issuerURL = "https://auth.example.org/realms/a"
	for name, test := range map[string]struct {
		changes []func(*Config)
		want    claims
	}{
		"as it is":         {nil, claims{"iss": "crm", "sub": "crm", "aud": deskURL}},
		"with an issuer":   {changedBy(func(c *Config) { c.Issuer = issuerURL }), claims{"iss": "crm", "sub": "crm", "aud": issuerURL}},
		"another audience": {changedBy(claim("aud", "https://aud.example.org")), claims{"iss": "crm", "sub": "crm", "aud": "https://aud.example.org"}},
		"two audiences":    {changedBy(claim("aud", deskURL), claim("aud", issuerURL)), claims{"iss": "crm", "sub": "crm", "aud": []string{deskURL, issuerURL}}},
		"another issuer":   {changedBy(claim("iss", "me")), claims{"iss": "me", "sub": "crm", "aud": deskURL}},
		"another subject":  {changedBy(claim("sub", "me")), claims{"iss": "crm", "sub": "me", "aud": deskURL}},
		"further claims": {changedBy(claim("tenant", "a"), claim("roles", "x"), claim("roles", "y"), claim("empty", "")),
			claims{"iss": "crm", "sub": "crm", "aud": deskURL, "tenant": "a", "roles": []string{"x", "y"}, "empty": ""}},
		"a placeholder": {changedBy(claim("tenant", "t-{env.T}"), func(c *Config) { c.Lookup = newVault("env.T", "9").lookup }),
			claims{"iss": "crm", "sub": "crm", "aud": deskURL, "tenant": "t-9"}},
		"with a scope":   {changedBy(scopes("", "a", "b")), claims{"iss": "crm", "sub": "crm", "aud": deskURL}},
		"token_exchange": {changedBy(grant("token_exchange"), func(c *Config) { c.SubjectToken = "theirs" }), claims{"iss": "crm", "sub": "crm", "aud": deskURL}},
		"password":       {changedBy(login), claims{"iss": "crm", "sub": "crm", "aud": deskURL}},
	} {
		d := newDesk(madeUp(200, deskIssued))
		token, failure := obtain(t, d.config(plain, append(test.changes, clientAuth("private_key_jwt"))...), nil)
		must(t, token, failure)
		got := d.last(t)
		if got.form.Get("client_assertion_type") != jwtBearerAssertion || got.form.Get("client_id") != "crm" || got.header.Get("Authorization") != "" {
			t.Errorf("%s: arrived %v", name, got.form)
		}
		said := verified(t, got.form.Get("client_assertion"), key.Public())
		if rest := without(t, said.claims, time.Now()); !sameJSON(rest, test.want) {
			t.Errorf("%s: says %v, want %v", name, rest, test.want)
		}
	}
}

func TestEachRequestHasAnAssertionOfItsOwn(t *testing.T) {
	t.Parallel()
	key := newKey(t, "RSA")
	d := newDesk(madeUp(200, deskIssued))
	s := newSource(t, d.config(toPEM(t, key)))
	seen := make(map[any]bool)
	for range 20 {
		token, failure := ask(t, s, nil)
		must(t, token, failure)
		seen[verified(t, d.last(t).form.Get("client_assertion"), key.Public()).claims["jti"]] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different jti in 20 requests", len(seen))
	}
}

func TestEachAlgorithmThatIsWrittenIsTheOneThatSigns(t *testing.T) {
	t.Parallel()
	for kind, algs := range keyKinds {
		key := newKey(t, kind)
		for _, alg := range SigningAlgs() {
			d := newDesk(madeUp(200, deskIssued))
			token, failure := obtain(t, d.config(toPEM(t, key), func(c *Config) { c.SigningAlg = alg }), nil)
			if !slices.Contains(algs, alg) {
				e := mustFail(t, token, failure)
				if want := "signing_alg: " + alg + " does not fit the private key, with which there is " + strings.Join(algs, ", "); e.Reason != want || !e.Permanent {
					t.Errorf("%s of %s: %v", alg, kind, e)
				}
				if len(d.arrived()) != 0 {
					t.Errorf("%s of %s: something was sent", alg, kind)
				}
				continue
			}
			must(t, token, failure)
			if got := verified(t, d.last(t).form.Get("client_assertion"), key.Public()); got.header["alg"] != alg {
				t.Errorf("%s of %s: signed with %v", alg, kind, got.header)
			}
		}
	}
}

func TestASecretSignsWithItsOwnAlgorithmsAlone(t *testing.T) {
	t.Parallel()
	secret := func(n int) string { return strings.Repeat("canary-secret-", 9)[:n] }
	for _, test := range []struct {
		alg  string
		size int
		want string // an error
	}{
		{"", 32, ""}, {"HS256", 32, ""}, {"HS384", 48, ""}, {"HS512", 64, ""}, {"HS256", 100, ""},
		{"", 31, "client_secret: HS256 needs a secret of 32 bytes at least, and this one has fewer"},
		{"HS384", 47, "client_secret: HS384 needs a secret of 48 bytes at least, and this one has fewer"},
		{"HS512", 63, "client_secret: HS512 needs a secret of 64 bytes at least, and this one has fewer"},
		{"RS256", 64, "signing_alg: client_secret_jwt signs with a secret: there is HS256, HS384, HS512"},
		{"none", 64, "signing_alg: client_secret_jwt signs with a secret: there is HS256, HS384, HS512"},
	} {
		d := newDesk(madeUp(200, deskIssued))
		c := d.config("", func(c *Config) {
			c.ClientSecret, c.ClientAuth, c.SigningAlg, c.KeyID = secret(test.size), "client_secret_jwt", test.alg, "k1"
		})
		token, failure := obtain(t, c, nil)
		if test.want != "" {
			e := mustFail(t, token, failure)
			if e.Reason != test.want || !e.Permanent || len(d.arrived()) != 0 {
				t.Errorf("%s, %d bytes: %v", test.alg, test.size, e)
			}
			silent(t, test.alg, e, c.ClientSecret)
			continue
		}
		must(t, token, failure)
		got := d.last(t).form
		said := verified(t, got.Get("client_assertion"), []byte(c.ClientSecret))
		if want := (map[string]any{"iss": "crm", "sub": "crm", "aud": deskURL}); !sameJSON(without(t, said.claims, time.Now()), want) {
			t.Errorf("%s: says %v", test.alg, said.claims)
		}
		if said.header["kid"] != "k1" || test.alg != "" && said.header["alg"] != test.alg {
			t.Errorf("%s: header %v", test.alg, said.header)
		}
		if got.Has("client_secret") || strings.Contains(got.Encode(), secret(20)) {
			t.Errorf("the secret itself is sent: %v", got)
		}
	}
}

func TestTheGrantsAssertionSaysForWhom(t *testing.T) {
	t.Parallel()
	key := newKey(t, "RSA")
	type claims = map[string]any
	account := toServiceAccount(t, key)
	for name, test := range map[string]struct {
		key     string
		changes []func(*Config)
		want    claims
		form    map[string]string
	}{
		"a client": {toPEM(t, key), nil, claims{"iss": "crm", "sub": "crm", "aud": deskURL}, map[string]string{"client_id": "crm"}},
		"a client that stands in for somebody": {toPEM(t, key), changedBy(claim("sub", "peter@example.org")),
			claims{"iss": "crm", "sub": "peter@example.org", "aud": deskURL}, nil},
		"another issuer": {toPEM(t, key), changedBy(claim("iss", "integration-key"), claim("sub", "peter")), claims{"iss": "integration-key", "sub": "peter", "aud": deskURL}, nil},
		"an issuer alone": {toPEM(t, key), changedBy(public, claim("iss", "integration-key"), func(c *Config) { c.ClientID = "" }),
			claims{"iss": "integration-key", "sub": "integration-key", "aud": deskURL}, map[string]string{"client_id": ""}},
		"a service account": {account, changedBy(func(c *Config) { c.ClientID = "" }),
			claims{"iss": robot, "aud": deskURL}, map[string]string{"client_id": ""}},
		"a service account with a client_id": {account, nil, claims{"iss": robot, "aud": deskURL}, map[string]string{"client_id": "crm"}},
		"a service account that stands in for somebody": {account, changedBy(claim("sub", "peter@example.org"), func(c *Config) { c.ClientID = "" }),
			claims{"iss": robot, "sub": "peter@example.org", "aud": deskURL}, nil},
		"a service account with scopes": {account, changedBy(scopes("", "https://a.example/x", "y")),
			claims{"iss": robot, "aud": deskURL, "scope": "https://a.example/x y"}, map[string]string{"scope": "https://a.example/x y"}},
		"scopes between commas": {toPEM(t, key), changedBy(scopes(",", "x", "y")),
			claims{"iss": "crm", "sub": "crm", "aud": deskURL, "scope": "x,y"}, map[string]string{"scope": "x,y"}},
		"a scope of the assertion alone": {account, changedBy(claim("scope", "z")), claims{"iss": robot, "aud": deskURL, "scope": "z"}, map[string]string{"scope": ""}},
		"a scope of its own": {account, changedBy(scopes("", "x"), claim("scope", "z")),
			claims{"iss": robot, "aud": deskURL, "scope": "z"}, map[string]string{"scope": "x"}},
		"an audience": {account, changedBy(claim("aud", "https://login.example.org")), claims{"iss": robot, "aud": "https://login.example.org"}, nil},
		"an issuer that publishes metadata": {account, changedBy(func(c *Config) { c.Issuer = "https://accounts.example.org" }),
			claims{"iss": robot, "aud": deskURL}, nil},
	} {
		d := newDesk(madeUp(200, deskIssued))
		token, failure := obtain(t, d.config(test.key, append(changedBy(grant("jwt_bearer"), clientAuth("none")), test.changes...)...), nil)
		must(t, token, failure)
		got := d.last(t)
		if got.form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || got.form.Has("client_assertion") || got.form.Has("client_assertion_type") {
			t.Errorf("%s: arrived %v", name, got.form)
		}
		for parameter, want := range test.form {
			if got.form.Get(parameter) != want || got.form.Has(parameter) != (want != "") {
				t.Errorf("%s: %s is %q, want %q", name, parameter, got.form[parameter], want)
			}
		}
		said := verified(t, got.form.Get("assertion"), key.Public())
		if rest := without(t, said.claims, time.Now()); !sameJSON(rest, test.want) {
			t.Errorf("%s: says %v, want %v", name, rest, test.want)
		}
	}
}

func TestAnAssertionOfNobodyIsNotSigned(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	token, failure := obtain(t, d.config(pemKey(t, "P-256"), grant("jwt_bearer"), func(c *Config) { c.ClientID = "" }), nil)
	e := mustFail(t, token, failure)
	if !strings.HasPrefix(e.Reason, "client_id: missing") || !e.Permanent || len(d.arrived()) != 0 {
		t.Errorf("%v", e)
	}
}

func TestAReadyAssertionOfTheGrantIsSentAsItIs(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	v := newVault("file./a", "theirs-1")
	s := newSource(t, d.config("", grant("jwt_bearer"), allParams(param("assertion", "{file./a}")), func(c *Config) { c.Lookup = v.lookup }))
	for _, want := range []string{"theirs-1", "theirs-2"} {
		v.set("file./a", want)
		token, failure := ask(t, s, nil)
		must(t, token, failure)
		if got := d.last(t).form; !slices.Equal(got["assertion"], []string{want}) || got.Has("client_assertion") {
			t.Errorf("arrived %v", got)
		}
	}
}

// TestTheClaimsOfAGrantAreNotThoseOfItsClient holds it for each request of such a
// source: the client is the same client also when it refreshes or revokes.
func TestTheClaimsOfAGrantAreNotThoseOfItsClient(t *testing.T) {
	t.Parallel()
	key := newKey(t, "RSA")
	secret := strings.Repeat("s3cret-of-it-", 6)
	for auth, public := range map[string]any{"private_key_jwt": key.Public(), "client_secret_jwt": []byte(secret)} {
		d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","expires_in":3600}`))
		c := d.config(toPEM(t, key), grant("jwt_bearer"), clientAuth(auth), claim("sub", "peter"), claim("aud", "https://elsewhere.example.org"), claim("scope", "x"))
		c.RevokeURL = "https://auth.example.org/revoke"
		c.SigningAlg, c.KeyID = "PS384", "k1"
		if auth == "client_secret_jwt" {
			c.ClientSecret = secret
		}
		s := newSource(t, c)
		token, failure := ask(t, s, nil)
		first := must(t, token, failure)
		if got := verified(t, d.last(t).form.Get("assertion"), key.Public()); got.header["alg"] != "PS384" || got.header["kid"] != "k1" || got.claims["sub"] != "peter" {
			t.Errorf("%s: the grant's assertion: %v", auth, got)
		}
		token, failure = ask(t, s, first)
		must(t, token, failure)
		if got := d.last(t).form; got.Get("grant_type") != "refresh_token" || got.Has("assertion") {
			t.Errorf("%s: refreshed with %v", auth, got)
		}
		if _, err := s.Revoke(t.Context(), first); err != nil {
			t.Errorf("%s: %v", auth, err)
		}
		for i, r := range d.arrived() {
			said := verified(t, r.form.Get("client_assertion"), public)
			if want := (map[string]any{"iss": "crm", "sub": "crm", "aud": deskURL}); !sameJSON(without(t, said.claims, time.Now()), want) {
				t.Errorf("%s, request %d: the client says %v", auth, i, said.claims)
			}
			if auth == "client_secret_jwt" && said.header["kid"] != nil {
				t.Errorf("%s, request %d: the secret goes by the name of the key: %v", auth, i, said.header)
			}
		}
	}
}

func TestAReadyAssertionIsReadAtEachRequestAndSentAsItIs(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	v := newVault("file./token", "")
	s := newSource(t, d.config("", func(c *Config) { c.ClientAssertion, c.Lookup = "{file./token}", v.lookup }))
	token, failure := ask(t, s, nil)
	e := mustFail(t, token, failure)
	if e.Reason != "client_assertion: the placeholder {file./token} is empty or cannot be read" || !e.Permanent || e.Changed() {
		t.Errorf("%v", e)
	}
	for _, assertion := range []string{"a.b.c", "a.b.d\n", "<saml/>"} {
		v.set("file./token", assertion)
		if !e.Changed() {
			t.Error("a file that is there now is no change")
		}
		token, failure := ask(t, s, nil)
		must(t, token, failure)
		got := d.last(t).form
		if !slices.Equal(got["client_assertion"], []string{strings.TrimSpace(assertion)}) || got.Get("client_assertion_type") != jwtBearerAssertion || got.Get("client_id") != "crm" {
			t.Errorf("arrived %v", got)
		}
	}
	const saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
	token, failure = obtain(t, d.config("", func(c *Config) { c.ClientAssertion = "theirs" }, allParams(param("client_assertion_type", saml))), nil)
	must(t, token, failure)
	if got := d.last(t).form; !slices.Equal(got["client_assertion_type"], []string{saml}) {
		t.Errorf("arrived %v", got)
	}
}

// TestARotatedKeySignsTheNextRequest holds that, and that a key of which half is
// written is told, and cured by its other half.
func TestARotatedKeySignsTheNextRequest(t *testing.T) {
	t.Parallel()
	old, young := newKey(t, "RSA"), newKey(t, "P-384")
	forms := map[string]func(crypto.Signer) string{
		"PEM": func(k crypto.Signer) string { return toPEM(t, k) }, "JWK": func(k crypto.Signer) string { return toJWK(t, k) },
		"service account": func(k crypto.Signer) string { return toServiceAccount(t, k) },
		"certificate":     func(k crypto.Signer) string { return toPEM(t, k) + validly(t, k) },
	}
	for form, write := range forms {
		for _, name := range []string{"client_credentials", "jwt_bearer"} {
			d := newDesk(madeUp(200, deskIssued))
			v := newVault("file./key", write(old))
			s := newSource(t, d.config("{file./key}", grant(name), func(c *Config) { c.Lookup = v.lookup }))
			parameter := map[string]string{"client_credentials": "client_assertion", "jwt_bearer": "assertion"}[name]
			token, failure := ask(t, s, nil)
			first := must(t, token, failure)
			verified(t, d.last(t).form.Get(parameter), old.Public())

			half := write(young)[:len(write(young))/2]
			v.set("file./key", half)
			token, failure = ask(t, s, first)
			e := mustFail(t, token, failure)
			if !strings.HasPrefix(e.Reason, "private_key: ") || !strings.Contains(e.Reason, "not whole") || !e.Permanent {
				t.Errorf("%s, %s: half a key: %v", form, name, e)
			}
			silent(t, form, e, half, write(old))
			if e.Changed() {
				t.Errorf("%s: half a key that is still half is a change", form)
			}
			if n := len(d.arrived()); n != 1 {
				t.Errorf("%s: %d requests", form, n)
			}
			v.set("file./key", write(young))
			if !e.Changed() {
				t.Errorf("%s: a whole key is no change", form)
			}
			token, failure = ask(t, s, first)
			must(t, token, failure)
			verified(t, d.last(t).form.Get(parameter), young.Public())
		}
	}
}

// TestWhatIsWrongWithAKeyIsToldByTheNameOfItsOption holds that no word of our own is
// taken for a secret because the key's file has it too.
func TestWhatIsWrongWithAKeyIsToldByTheNameOfItsOption(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	ended := certify(t, key, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	jwk := toJWK(t, key, "kid", `"signing_alg-key"`)
	account := toServiceAccount(t, key)
	for name, test := range map[string]struct{ key, alg, want string }{
		"half a service account":             {account[:len(account)-20], "", "private_key: the JSON is broken, or not whole"},
		"service account, another algorithm": {account, "RS256", "signing_alg: RS256 does not fit the private key, with which there is ES256"},
		"half a JWK":                         {jwk[:len(jwk)-20], "", "private_key: the JSON is broken, or not whole"},
		"JWK, another algorithm":             {jwk, "RS256", "signing_alg: RS256 does not fit the private key, with which there is ES256"},
		"PEM in words": {"the certificate that stands with it\nprivate_key: ended on\n" + toPEM(t, key) + ended, "",
			"private_key: the certificate that stands with it ended on " + time.Now().Add(-24*time.Hour).UTC().Format(time.DateTime)},
	} {
		for _, byFile := range []bool{false, true} {
			d := newDesk(madeUp(200, deskIssued))
			c := d.config(test.key, func(c *Config) { c.SigningAlg = test.alg })
			if byFile {
				c.PrivateKey, c.Lookup = "{file./key}", newVault("file./key", test.key).lookup
			}
			token, failure := obtain(t, c, nil)
			if e := mustFail(t, token, failure); e.Reason != test.want {
				t.Errorf("%s, by a file %v: %q, want %q", name, byFile, e.Reason, test.want)
			}
		}
	}
}

// TestAProviderThatRefusesAKeyIsHeard holds that what it says of a service account
// is not blacked out because that stands in the key's file.
func TestAProviderThatRefusesAKeyIsHeard(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	const says = "Invalid JWT: " + robot + " of type service_account has no key 'crm-key-2026' (private_key_jwt)"
	for _, text := range []string{toServiceAccount(t, key), toJWK(t, key, "kid", `"crm-key-2026"`, "x-account", `"`+robot+`"`)} {
		d := newDesk(madeUp(400, object("error", "invalid_grant", "error_description", says)))
		token, failure := obtain(t, d.config("{file./key}", grant("jwt_bearer"), func(c *Config) { c.Lookup = newVault("file./key", text).lookup }), nil)
		if e := mustFail(t, token, failure); e.Description != says {
			t.Errorf("it is heard saying %q", e.Description)
		}
	}
}

// TestNoKeyAndNoAssertionIsEverPartOfAnError has a provider echo them, whole and by
// their parts.
func TestNoKeyAndNoAssertionIsEverPartOfAnError(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	texts := map[string]string{"PEM": toPEM(t, key), "JWK": toJWK(t, key), "service account": toServiceAccount(t, key)}
	for form, text := range texts {
		for where, echo := range echoes {
			for _, name := range []string{"client_credentials", "jwt_bearer"} {
				var assertion string
				d := &desk{}
				d.answer = func(_ int, r deskRequest) *http.Response {
					assertion = r.form.Get("assertion") + r.form.Get("client_assertion")
					return record(echo(assertion + " " + text))
				}
				token, failure := obtain(t, d.config("{file./key}", grant(name), func(c *Config) { c.Lookup = newVault("file./key", text).lookup }), nil)
				e := mustFail(t, token, failure)
				parts := strings.Split(assertion, ".")
				secret := []string{parts[2]} // without which nobody makes use of it
				for line := range strings.Lines(text) {
					if line = strings.TrimSpace(line); len(line) == 64 {
						secret = append(secret, line)
					}
				}
				secret = append(secret, string(jwkField(t, key, "d")))
				silent(t, form+", "+where, e, secret...)
			}
		}
	}
}

// TestACertificateThatBeginsLaterIsWaitedFor holds that nobody has to do anything,
// where its maker's clock was ahead.
func TestACertificateThatBeginsLaterIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t, "P-256")
		d := newDesk(madeUp(200, deskIssued))
		s := newSource(t, d.config(toPEM(t, key)+certify(t, key, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))))
		token, failure := ask(t, s, nil)
		early := mustFail(t, token, failure)
		if want := "private_key: the certificate that stands with it begins on "; !early.Permanent || !strings.HasPrefix(early.Reason, want) || early.Changed() {
			t.Errorf("%v", early)
		}
		time.Sleep(time.Hour + time.Second)
		if !early.Changed() {
			t.Error("that it has begun is no change")
		}
		token, failure = ask(t, s, nil)
		must(t, token, failure)
		time.Sleep(time.Hour)
		token, failure = ask(t, s, nil)
		late := mustFail(t, token, failure)
		if want := "private_key: the certificate that stands with it ended on "; !late.Permanent || !strings.HasPrefix(late.Reason, want) || late.Changed() {
			t.Errorf("%v", late)
		}
		if n := len(d.arrived()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestARefusalTellsWhomTheAssertionWasFor holds that it is the one that was refused,
// and that no secret of its address is told.
func TestARefusalTellsWhomTheAssertionWasFor(t *testing.T) {
	t.Parallel()
	key := pemKey(t, "P-256")
	const issuerURL = "https://auth.example.org/realms/a"
	withIssuer := func(c *Config) { c.Issuer = issuerURL }
	for name, test := range map[string]struct {
		code    string
		changes []func(*Config)
		want    string
	}{
		"a client":                 {"invalid_client", nil, deskURL},
		"a client of an issuer":    {"invalid_client", changedBy(withIssuer, clientAuth("private_key_jwt")), issuerURL},
		"a grant of an issuer":     {"invalid_grant", changedBy(withIssuer, grant("jwt_bearer"), clientAuth("none")), deskURL},
		"the client of such a one": {"invalid_client", changedBy(withIssuer, grant("jwt_bearer"), clientAuth("private_key_jwt")), issuerURL},
		"a secret":                 {"invalid_client", changedBy(func(c *Config) { c.PrivateKey, c.ClientSecret = "", "secret" }), ""},
		"a ready assertion":        {"invalid_client", changedBy(func(c *Config) { c.PrivateKey, c.ClientAssertion = "", "theirs" }), ""},
		"a secret in the address":  {"invalid_client", changedBy(func(c *Config) { c.TokenURL += "?api_key=canary-of-the-url" }), deskURL + "?api_key=[redacted]"},
	} {
		d := newDesk(madeUp(401, object("error", test.code)))
		token, failure := obtain(t, d.config(key, test.changes...), nil)
		e := mustFail(t, token, failure)
		if e.Audience != test.want {
			t.Errorf("%s: for %q, want %q", name, e.Audience, test.want)
		}
		silent(t, name, e, "canary-of-the-url")
	}
}

func TestReadyIsNobodyWhoseKeyCannotSign(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	d := newDesk(madeUp(200, deskIssued))
	for _, change := range []func(*Config){grant("client_credentials"), grant("jwt_bearer"), func(c *Config) { c.Grant, c.RefreshToken = "refresh_token", "rt" }, func(c *Config) {
		c.Grant, c.DeviceURL = "device_code", "https://auth.example.org/device"
	}} {
		for text, want := range map[string]string{toPEM(t, key): "", toPEM(t, key)[:99]: "private_key: the PEM is broken, or not whole"} {
			c := d.config(text, change)
			err := newSource(t, c).Ready(t.Context())
			if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("%s: %v, want %q", c.Grant, err, want)
			}
		}
	}
	if len(d.arrived()) != 0 {
		t.Error("something was sent")
	}
}

func TestAnAssertionIsForNobodyElseWhereTheIssuerCannotBeRead(t *testing.T) {
	t.Parallel()
	v := newVault()
	s := newSource(t, Config{
		Grant: "client_credentials", ClientID: "crm", ClientAuth: "private_key_jwt", PrivateKey: pemKey(t, "P-256"),
		Issuer: "{env.ISSUER}", TokenURL: "https://auth.example.org/token", Lookup: v.lookup, Transport: nobody(t),
	})
	_, err := s.Obtain(t.Context(), nil)
	if e := failureOf(t, err); !e.Permanent || !strings.Contains(e.Reason, "issuer") {
		t.Errorf("got %v", e)
	}
}
