package tokensource

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// proofOf reads a DPoP proof by the rules of RFC 9449, section 4.3, and returns its
// key as it stands there.
func proofOf(t testing.TB, proof string) (said jwt, jwk string) {
	t.Helper()
	header, _, _ := strings.Cut(proof, ".")
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	var form struct {
		JWK json.RawMessage `json:"jwk"`
	}
	if err := json.Unmarshal(text, &form); err != nil {
		t.Fatal(err)
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(form.JWK); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(form.JWK, &fields); err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
		if fields[private] != nil {
			t.Fatalf("the proof holds the private key (%s)", private)
		}
	}
	said = verified(t, proof, key.Key)
	if said.header["typ"] != "dpop+jwt" || len(said.header) != 3 { // with alg and jwk
		t.Errorf("header %v", said.header)
	}
	iat, _ := said.claims["iat"].(float64)
	if at := time.Unix(int64(iat), 0); time.Since(at).Abs() > 20*time.Second {
		t.Errorf("iat is %v", at)
	}
	if jti, _ := said.claims["jti"].(string); len(jti) < 22 {
		t.Errorf("jti is %q", jti)
	}
	return said, string(form.JWK)
}

const boundAnswer = `{"access_token":"at-bound","token_type":"DPoP","expires_in":3600}`

func dpop(alg string) func(*Config) { return func(c *Config) { c.DPoP = alg } }

func TestAProofIsOfItsRequestAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, alg := range SigningAlgs() {
		d := newDesk(madeUp(200, boundAnswer))
		token, failure := obtain(t, d.config("", dpop(alg), func(c *Config) { c.TokenURL += "?tenant=a" }), nil)
		bound := must(t, token, failure)
		if !bound.IsBound() {
			t.Errorf("%s: the token is bound to nothing", alg)
		}
		r := d.last(t)
		if n := len(r.header.Values("DPoP")); n != 1 {
			t.Fatalf("%s: %d proofs", alg, n)
		}
		said, jwk := proofOf(t, r.header.Get("DPoP"))
		if said.header["alg"] != alg || said.claims["htm"] != "POST" || said.claims["htu"] != deskURL || len(said.claims) != 4 {
			t.Errorf("%s: %v, %v", alg, said.header, said.claims)
		}

		proof, err := bound.Proof("GET", "https://API.example.org:443/a%20b/%2F?c=d#e", "n-1")
		if err != nil {
			t.Fatal(err)
		}
		again, sameJWK := proofOf(t, proof)
		want := map[string]any{"htm": "GET", "htu": "https://api.example.org/a%20b/%2F", "nonce": "n-1", "ath": b64(sha256Of([]byte("at-bound"))),
			"jti": again.claims["jti"], "iat": again.claims["iat"]}
		if !reflect.DeepEqual(again.claims, want) || jwk != sameJWK {
			t.Errorf("%s: at the upstream %v, want %v; of another key: %v", alg, again.claims, want, jwk != sameJWK)
		}
		if again.claims["jti"] == said.claims["jti"] {
			t.Errorf("%s: one jti for two proofs", alg)
		}
	}
}

func TestTheAddressInAProofHasOneForm(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://api.example.org":                 "https://api.example.org/",
		"https://api.example.org/":                "https://api.example.org/",
		"https://api.example.org?x=1":             "https://api.example.org/",
		"HTTPS://API.Example.ORG/Path?q#f":        "https://api.example.org/Path",
		"https://api.example.org:443/a":           "https://api.example.org/a",
		"http://127.0.0.1:80/a":                   "http://127.0.0.1/a",
		"https://api.example.org:80/a":            "https://api.example.org:80/a",
		"http://127.0.0.1:443/a":                  "http://127.0.0.1:443/a",
		"https://api.example.org:8443/a/../b//c/": "https://api.example.org:8443/a/../b//c/",
		"https://[2001:DB8::1]:443/a":             "https://[2001:db8::1]/a",
		"https://[2001:db8::1]:8443/a":            "https://[2001:db8::1]:8443/a",
		"https://api.example.org/%7Ea/%c3%a4;x=1": "https://api.example.org/%7Ea/%c3%a4;x=1",
		"https://api.example.org/a?b=https://c/d": "https://api.example.org/a",
		"https://user:pw@api.example.org/a":       "https://api.example.org/a",
	} {
		if got, err := proofTarget(address); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
	if got, err := proofTarget("https://api.example.org/%zz"); err == nil {
		t.Errorf("%q", got)
	}
}

// TestTheKeyOfATokenGoesOnWithIt holds RFC 9449, section 5: a refresh token of a
// public client is bound to the key as well.
func TestTheKeyOfATokenGoesOnWithIt(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "PS512"} {
		d := newDesk(madeUp(200, `{"access_token":"at-1","refresh_token":"rt-1","token_type":"DPoP","expires_in":60}`),
			madeUp(200, `{"access_token":"at-2","token_type":"dpop","expires_in":60}`), madeUp(400, object("error", "invalid_grant")),
			madeUp(200, `{"access_token":"at-4","token_type":"DPoP","expires_in":60}`))
		c := d.config("", dpop(alg))
		token, failure := obtain(t, c, nil)
		token = must(t, token, failure)
		_, first := proofOf(t, d.last(t).header.Get("DPoP"))
		for i := range 2 {
			text, err := token.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if token, err = Decode(text); err != nil { // in another process
				t.Fatal(err)
			}
			next, failure := obtain(t, c, token)
			token = must(t, next, failure)
			if !token.IsBound() {
				t.Errorf("%s: the token is bound to nothing", alg)
			}
			for _, r := range d.arrived()[i+1:] {
				if _, jwk := proofOf(t, r.header.Get("DPoP")); jwk != first {
					t.Errorf("%s: the key is another", alg)
				}
			}
		}
		if n := len(d.arrived()); n != 4 {
			t.Errorf("%s: %d requests, with the refresh that was refused", alg, n)
		}
		fresh, failure := obtain(t, c, nil)
		must(t, fresh, failure)
		if _, jwk := proofOf(t, d.last(t).header.Get("DPoP")); jwk == first {
			t.Errorf("%s: two grants have one key", alg)
		}
	}
}

func TestAnotherAlgorithmHasAnotherKeyExceptWhereATokenIsRefreshed(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","token_type":"DPoP","expires_in":60}`))
	token, failure := obtain(t, d.config("", dpop("ES256")), nil)
	first := must(t, token, failure)
	_, own := proofOf(t, d.last(t).header.Get("DPoP"))
	other := newSource(t, d.config("", dpop("ES384")))
	token, failure = ask(t, other, first)
	must(t, token, failure)
	if said, jwk := proofOf(t, d.last(t).header.Get("DPoP")); said.header["alg"] != "ES256" || jwk != own {
		t.Errorf("refreshed with %v", said.header)
	}
	token, failure = ask(t, other, first.WithoutRefreshToken())
	must(t, token, failure)
	if said, jwk := proofOf(t, d.last(t).header.Get("DPoP")); said.header["alg"] != "ES384" || jwk == own {
		t.Errorf("begun anew with %v", said.header)
	}
	if other.Takes(first) {
		t.Error("a token of another algorithm is taken for one that it could have obtained")
	}
	plain := newSource(t, d.config("", clientAuth("none")))
	if plain.Takes(first) {
		t.Error("a bound token is taken where none is to be bound")
	}
}

// TestARefreshTokenThatIsBoundIsProvedWhereDPoPIsTakenOut is of what a person has
// authorized: without its key the refresh token would be worth nothing.
func TestARefreshTokenThatIsBoundIsProvedWhereDPoPIsTakenOut(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","token_type":"DPoP","expires_in":60}`))
	token, failure := obtain(t, d.config("", dpop("ES256")), nil)
	first := must(t, token, failure)
	_, own := proofOf(t, d.last(t).header.Get("DPoP"))
	plain := newSource(t, d.config("", clientAuth("none")))
	token, failure = ask(t, plain, first)
	must(t, token, failure)
	if _, jwk := proofOf(t, d.last(t).header.Get("DPoP")); jwk != own {
		t.Error("the refresh has another key")
	}
	token, failure = ask(t, plain, first.WithoutRefreshToken())
	if must(t, token, failure).IsBound() || d.last(t).header.Get("DPoP") != "" {
		t.Error("what begins anew has a proof")
	}
}

// TestTheKeyOfAProofIsShownNowhere holds that the storage has it, and nobody else.
func TestTheKeyOfAProofIsShownNowhere(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"ES256", "EdDSA", "RS256"} {
		d := newDesk(madeUp(200, boundAnswer), madeUp(401, object("error", "invalid_client", "error_description", "no")))
		s := newSource(t, d.config("", dpop(alg)))
		token, failure := ask(t, s, nil)
		bound := must(t, token, failure)
		text, err := bound.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var stored struct {
			Key map[string]string `json:"dpop_key"`
		}
		if err := json.Unmarshal(text, &stored); err != nil || stored.Key["d"] == "" {
			t.Fatalf("%s: it is not stored: %v", alg, err)
		}
		secret := stored.Key["d"]
		raw, err := base64.RawURLEncoding.DecodeString(secret)
		if err != nil {
			t.Fatal(err)
		}
		token, failure = ask(t, s, bound)
		e := mustFail(t, token, failure)
		silent(t, alg, e, secret)
		shown := fmt.Sprintf("%v %+v %#v %+v", bound, bound, *bound, s)
		for name, form := range map[string]string{"base64url": secret, "bytes": string(raw), "hex": fmt.Sprintf("%x", raw), "list": strings.Trim(fmt.Sprint(raw), "[]"),
			"number": fmt.Sprint(number10(raw))} {
			if strings.Contains(shown, form[:min(len(form), 30)]) {
				t.Errorf("%s: the key is shown as %s", alg, name)
			}
		}
		for _, r := range d.arrived() {
			if strings.Contains(fmt.Sprint(r), secret) {
				t.Errorf("%s: the key is sent", alg)
			}
		}
		for n := range len(secret) / 8 { // in a storage that has lost a part of it
			broken := bytes.Replace(text, []byte(secret), []byte(secret[:n*8]), 1)
			if _, err := Decode(broken); err == nil || strings.Contains(err.Error(), secret[:8]) {
				t.Errorf("%s: a key of which %d of %d letters are left: %v", alg, n*8, len(secret), err)
			}
		}
	}
}

func number10(raw []byte) string {
	var digits strings.Builder
	for _, b := range raw {
		fmt.Fprintf(&digits, "%d", b)
	}
	return digits.String()
}

func TestATokenWithoutAKeyIsBoundToNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(madeUp(200, deskIssued))
	token, failure := obtain(t, d.config("", clientAuth("none")), nil)
	plain := must(t, token, failure)
	text, err := plain.Encode()
	if plain.IsBound() || err != nil || strings.Contains(string(text), "dpop") || d.last(t).header.Get("DPoP") != "" {
		t.Errorf("%v, %s", err, text)
	}
}

// nonced is a desk that wants a nonce: the one that counts its requests, or one for
// all.
func nonced(each bool) *desk {
	d := &desk{}
	d.answer = func(n int, r deskRequest) *http.Response {
		want := "nonce-0"
		if each {
			want = fmt.Sprint("nonce-", n)
		}
		next := want
		if each {
			next = fmt.Sprint("nonce-", n+1)
		}
		said, err := proofClaims(r.header.Get("DPoP"))
		resp := madeUp(200, boundAnswer)
		if err != nil || said["nonce"] != want {
			resp = madeUp(400, object("error", "use_dpop_nonce"))
		}
		resp.Header.Set("DPoP-Nonce", next)
		return resp
	}
	return d
}

func proofClaims(proof string) (claims map[string]any, err error) {
	parts := strings.Split(proof, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("no proof")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	return claims, json.Unmarshal(text, &claims)
}

func TestAWantedNonceIsGivenOnceAndRemembered(t *testing.T) {
	t.Parallel()
	for _, each := range []bool{false, true} {
		d := nonced(each)
		s := newSource(t, d.config("", dpop("ES256")))
		for i, want := range []int{2, 3, 4, 5} {
			token, failure := ask(t, s, nil)
			must(t, token, failure)
			if n := len(d.arrived()); n != want {
				t.Errorf("a nonce for each %v: %d requests for %d tokens", each, n, i+1)
			}
		}
		seen := map[any]bool{}
		for _, r := range d.arrived() {
			said, _ := proofOf(t, r.header.Get("DPoP"))
			seen[said.claims["jti"]] = true
		}
		if len(seen) != 5 {
			t.Errorf("%d proofs in 5 requests", len(seen))
		}
	}
}

func TestANonceIsAskedForOnceMoreAndThenNoMore(t *testing.T) {
	t.Parallel()
	nonce := func(code, value string) *http.Response {
		resp := madeUp(400, object("error", code))
		if value != "" {
			resp.Header.Set("DPoP-Nonce", value)
		}
		return resp
	}
	for name, test := range map[string]struct {
		reply func(n int) *http.Response
		ahead time.Duration
		want  int
	}{
		"always another":  {func(n int) *http.Response { return nonce("use_dpop_nonce", fmt.Sprint("n", n)) }, 0, 2},
		"none given":      {func(int) *http.Response { return nonce("use_dpop_nonce", "") }, 0, 1},
		"another refusal": {func(int) *http.Response { return nonce("invalid_client", "n") }, 0, 1},
		"and another clock": {func(n int) *http.Response {
			return nonce([]string{"use_dpop_nonce", "invalid_dpop_proof", "invalid_dpop_proof", "x"}[min(n, 3)], "n")
		}, time.Hour, 3},
		"clock, then a nonce": {func(n int) *http.Response {
			return nonce([]string{"invalid_dpop_proof", "use_dpop_nonce", "use_dpop_nonce", "x"}[min(n, 3)], "n")
		}, time.Hour, 3},
		"invalid, right clock": {func(int) *http.Response { return nonce("invalid_dpop_proof", "n") }, 0, 1},
	} {
		d := &desk{ahead: test.ahead}
		d.answer = func(n int, _ deskRequest) *http.Response { return test.reply(n) }
		token, failure := obtain(t, d.config("", dpop("ES256")), nil)
		mustFail(t, token, failure)
		if n := len(d.arrived()); n != test.want {
			t.Errorf("%s: %d requests, want %d", name, n, test.want)
		}
	}
	d := newDesk(nonce("use_dpop_nonce", "n"))
	token, failure := obtain(t, d.config("", clientAuth("none")), nil)
	mustFail(t, token, failure)
	if n := len(d.arrived()); n != 1 {
		t.Errorf("without a proof: %d requests", n)
	}
}

// TestARefreshIsSentAgainForANonce holds that nothing is lost by that: the refresh
// token was not looked at.
func TestARefreshIsSentAgainForANonce(t *testing.T) {
	t.Parallel()
	d := nonced(false)
	c := d.config("", dpop("ES256"), func(c *Config) { c.Grant, c.RefreshToken = "refresh_token", "rt" })
	token, failure := obtain(t, c, nil)
	must(t, token, failure)
	if n := len(d.arrived()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestATokenThatWasToBeBoundAndIsNotIsRefused(t *testing.T) {
	t.Parallel()
	for kind, taken := range map[string]bool{"Bearer": false, "bearer": false, "DPoP": true, "dpop": true, "": true, "N_A": true} {
		for _, refresh := range []string{"", "canary-refresh-token"} {
			d := newDesk(madeUp(200, object("access_token", "canary-access-token", "token_type", kind, "refresh_token", refresh)))
			token, failure := obtain(t, d.config("", dpop("ES256")), nil)
			if !taken && refresh == "" {
				e := mustFail(t, token, failure)
				if !strings.HasPrefix(e.Reason, "dpop: the provider has not bound the token to our key") || !e.Permanent {
					t.Errorf("%q: %v", kind, e)
				}
				silent(t, kind, e, "canary-access-token")
				continue
			}
			if got := must(t, token, failure); got.IsBound() != taken || got.RefreshToken != refresh {
				t.Errorf("%q, refresh token %q: bound %v, %q", kind, refresh, got.IsBound(), got.RefreshToken)
			}
			if n := len(d.arrived()); n != 1 {
				t.Errorf("%q: %d requests", kind, n)
			}
		}
	}
}

func TestAProofStandsBesideEveryWayOfTheClient(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	for _, auth := range ClientAuthNames() {
		d := newDesk(madeUp(200, boundAnswer))
		c := d.config(toPEM(t, key), dpop("EdDSA"), clientAuth(auth))
		if auth != "none" {
			c.ClientSecret = strings.Repeat("s", 32)
		}
		token, failure := obtain(t, c, nil)
		if got := must(t, token, failure); !got.IsBound() {
			t.Errorf("%s: bound to nothing", auth)
		}
		proofOf(t, d.last(t).header.Get("DPoP"))
	}
	d := newDesk(madeUp(200, `{"access_token":"at","refresh_token":"rt","token_type":"DPoP"}`))
	c := d.config("", dpop("ES256"), func(c *Config) { c.RevokeURL = "https://auth.example.org/revoke" })
	s := newSource(t, c)
	token, failure := ask(t, s, nil)
	if _, err := s.Revoke(t.Context(), must(t, token, failure)); err != nil {
		t.Error(err)
	}
	if r := d.last(t); r.header.Get("DPoP") != "" {
		t.Error("a revocation has a proof")
	}
}

// TestAProofsKeyIsOfItsKind holds that a key from the storage signs with its own
// algorithm alone.
func TestAProofsKeyIsOfItsKind(t *testing.T) {
	t.Parallel()
	for kind, key := range map[string]crypto.Signer{"P-256": newKey(t, "P-256"), "RSA": newKey(t, "RSA")} {
		for _, alg := range []string{"HS256", "none", "EdDSA", "ES512"} {
			text := fmt.Sprintf(`{"access_token":"a","issued":"2026-01-01T00:00:00Z","dpop_key":%s}`, toJWK(t, key, "alg", fmt.Sprintf("%q", alg)))
			if _, err := Decode([]byte(text)); err == nil {
				t.Errorf("%s signs with %s", kind, alg)
			}
		}
	}
}
