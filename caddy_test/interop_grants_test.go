package caddy_test

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// needsAPerson is what the log says until somebody has authorized a source.
const needsAPerson = "a person must authorize this source"

// authorize has a person authorize a source, where the grant needs one.
func (r *interopRow) authorize(source string) {
	r.t.Helper()
	if !r.way.person {
		return
	}
	command := r.begin(source)
	address := openAddress(r.t, command)
	landing := newVisitor(r.t).agree(r.withCode(command, address), r.site+"/callback")
	if strings.HasPrefix(landing, r.site+"/callback") {
		if resp, body := harness.Get(r.t, landing); resp.StatusCode != http.StatusOK || !strings.Contains(body, "Authorized") {
			r.t.Errorf("the landing page was answered %d: %s", resp.StatusCode, body)
		}
	}
	if code := command.End(); code != 0 {
		r.t.Fatalf("authorizing ended with %d", code)
	}
}

// cause is what an operator is told of the wrong credential.
func (r *interopRow) cause() string { return cmp.Or(r.offer.cause, r.way.wrong.cause) }

func (r *interopRow) begin(source string) *harness.Dialogue {
	r.t.Helper()
	return harness.StartDialogue(r.t, r.c.Dir, "token-source", "authorize", source, "--address", r.c.Admin)
}

// withCode adds the code that a device shows to the address that it shows.
func (r *interopRow) withCode(command *harness.Dialogue, address string) string {
	if r.way.grant != "device_code" {
		return address
	}
	code := strings.TrimSpace(between(command.Output(), "enter the code", "It is waited"))
	return address + "?" + url.Values{"user_code": {code}}.Encode()
}

// between is what stands between two texts.
func between(text, before, after string) string {
	_, rest, _ := strings.Cut(text, before)
	found, _, _ := strings.Cut(rest, after)
	return found
}

// assertAuthorizeRefused has a person authorize a source whose credential is wrong.
func (r *interopRow) assertAuthorizeRefused() {
	r.t.Helper()
	command := r.begin("wrong")
	if r.way.grant == "authorization_code" {
		landing := newVisitor(r.t).agree(openAddress(r.t, command), r.site+"/callback")
		harness.Get(r.t, landing)
	}
	if code := command.End(); code != 4 {
		r.t.Errorf("authorizing with a wrong credential ended with %d", code)
	}
	if output := command.Output(); !strings.Contains(output, r.offer.wrongCode()) || !strings.Contains(output, r.cause()) {
		r.t.Errorf("authorizing with a wrong credential does not say %s:\n%s", r.offer.wrongCode(), output)
	}
	resp, body := harness.Get(r.t, r.site+"/wrong")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "caddy token-source authorize wrong") {
		r.t.Errorf("with a wrong credential answered %d %q", resp.StatusCode, body)
	}
}

// assertCallerRefused has a caller come without a token of its own, and with one
// that the server does not know.
func (r *interopRow) assertCallerRefused() {
	r.t.Helper()
	for subject, want := range map[string]string{"": "Bearer", "of-somebody-else-0123456789": `error="invalid_token"`} {
		resp, body := r.getWith(subject)
		if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(challenge, want) {
			r.t.Errorf("with the token %q a caller is answered %d, %q: %s", subject, resp.StatusCode, challenge, body)
		}
	}
}

// loginSecrets are of the clients whose tokens are exchanged.
var loginSecrets = map[string]string{"oidc": apiSecret, "zitadel": "verysecret"}

// newSubject is a token that is to be exchanged, where the way is that: one of a
// client that acts for itself.
func (r *interopRow) newSubject() string {
	r.t.Helper()
	if r.way.grant != "token_exchange" {
		return ""
	}
	client, secret := "api", loginSecrets[r.server.word]
	if r.server.word == "zitadel" {
		client = "sid1"
	}
	answer, err := r.send(url.Values{"grant_type": {"client_credentials"}, "scope": {r.offer.scope}},
		http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(client+":"+secret))}})
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.AccessToken
}

// assertion is how a client proves itself that has a key.
func (r *interopRow) assertion(signers map[string]crypto.Signer) string {
	r.t.Helper()
	audience := cmp.Or(r.value(r.base, r.dir)("aud"), r.issuer())
	return r.sign(signers[r.way.alg], r.way.alg, map[jose.HeaderKey]any{"kid": keyID}, map[string]any{
		"iss": r.offer.client, "sub": r.offer.client, "aud": audience, "jti": rand.Text(), "iat": unixNow() - 5, "exp": unixNow() + 600,
	})
}

// proof is a proof of the key to which Caddy's token is bound.
func (r *interopRow) proof() string {
	r.t.Helper()
	key := r.stored().ProofKey
	return r.sign(key.Key, key.Algorithm, map[jose.HeaderKey]any{"typ": "dpop+jwt", "jwk": key.Public()}, map[string]any{
		"htm": http.MethodPost, "htu": r.server.url(r.base, "token"), "jti": rand.Text(), "iat": unixNow(),
	})
}

func (r *interopRow) sign(key any, alg string, header map[jose.HeaderKey]any, claims map[string]any) string {
	r.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		r.t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		r.t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		r.t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		r.t.Fatal(err)
	}
	return compact
}

// storedToken is what Caddy has stored.
type storedToken struct {
	AccessToken, RefreshToken string
	ProofKey                  jose.JSONWebKey
}

// refreshToken is the one that Caddy has stored.
func (r *interopRow) refreshToken() string {
	r.t.Helper()
	return r.stored().RefreshToken
}

func (r *interopRow) stored() storedToken {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.c.Dir, "data", "caddy", "token_sources", "crm", "*", "token.json"))
	if err != nil || len(files) != 1 {
		r.t.Fatalf("the storage holds %d tokens (%v)", len(files), err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		r.t.Fatal(err)
	}
	var record struct{ Token map[string]json.RawMessage }
	var token storedToken
	if err := json.Unmarshal(text, &record); err != nil {
		r.t.Fatal(err)
	}
	for name, text := range map[string]*string{"access_token": &token.AccessToken, "refresh_token": &token.RefreshToken} {
		if err := json.Unmarshal(record.Token[name], text); err != nil && record.Token[name] != nil {
			r.t.Fatal(err)
		}
	}
	if key := record.Token["dpop_key"]; key != nil {
		if err := token.ProofKey.UnmarshalJSON(key); err != nil {
			r.t.Fatal(err)
		}
	}
	return token
}

// assertRotated wants the server to refuse a refresh token that was spent, and the
// source to begin anew after what the server does then.
func (r *interopRow) assertRotated() {
	r.t.Helper()
	spent := r.refreshToken()
	r.c.Eventually(time.Minute, "the refresh token was spent", func() bool { return r.refreshToken() != spent })
	values := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {spent}}
	if answer, err := r.askForToken(values); err == nil || answer.Error != "invalid_grant" {
		r.t.Errorf("a refresh token that was spent was answered %v", err)
	}
	// Most servers end all that came of it, for it may have been stolen.
	if r.way.person {
		r.authorize("crm")
	}
	if r.way.word == "refresh" {
		harness.WriteFile(r.t, r.dir, "refresh-token", r.seed())
	}
	r.c.Eventually(time.Minute, "it is served again", func() bool {
		resp, _ := r.get()
		return resp.StatusCode == http.StatusOK
	})
}

// grantedToken is the answer of a token endpoint.
type grantedToken struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	Error        string
}

// askForToken sends a token request past Caddy.
func (r *interopRow) askForToken(values url.Values) (answer grantedToken, err error) {
	header := make(http.Header)
	switch {
	case r.offer.secret != "" && r.way.alg == "":
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(r.offer.client+":"+r.offer.secret)))
	case r.way.alg != "":
		values.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		values.Set("client_assertion", r.assertion(r.world.keys.signer))
	default:
		values.Set("client_id", r.offer.client)
	}
	if r.way.binding == withProof {
		header.Set("DPoP", r.proof())
	}
	return r.send(values, header)
}

func (r *interopRow) send(values url.Values, header http.Header) (answer grantedToken, err error) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.server.url("http://"+r.server.host, "token"), strings.NewReader(values.Encode()))
	if err != nil {
		return answer, err
	}
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.t.Fatalf("the token endpoint answered %d: %v", resp.StatusCode, err)
	}
	if resp.StatusCode != http.StatusOK || answer.AccessToken == "" {
		return answer, errors.New(resp.Status + " " + answer.Error)
	}
	return answer, nil
}

// seed is a refresh token that somebody has come by elsewhere.
func (r *interopRow) seed() string {
	r.t.Helper()
	values := url.Values{"grant_type": {"password"}, "username": {"peter"}, "password": {r.server.password()}, "scope": {r.offer.scope}}
	if r.server.password() == "" {
		values = r.seedCode()
	}
	answer, err := r.askForToken(values)
	if err != nil || answer.RefreshToken == "" {
		r.t.Fatalf("no refresh token to begin with: %v", err)
	}
	return answer.RefreshToken
}

// seedCode has a person authorize the client past Caddy.
func (r *interopRow) seedCode() url.Values {
	r.t.Helper()
	const verifier = "a-verifier-of-at-least-43-characters-0123456789"
	challenge := sha256.Sum256([]byte(verifier))
	landing := newVisitor(r.t).agree(r.server.url("http://"+r.server.host, "authorize")+"?"+url.Values{
		"client_id": {r.offer.client}, "response_type": {"code"}, "redirect_uri": {r.site + "/callback"}, "scope": {r.offer.scope},
		"state": {"a-state-of-a-test"}, "prompt": {"consent"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode(), r.site+"/callback")
	u, err := url.Parse(landing)
	if err != nil || u.Query().Get("code") == "" {
		r.t.Fatalf("no code in %s", landing)
	}
	return url.Values{"grant_type": {"authorization_code"}, "code": {u.Query().Get("code")}, "redirect_uri": {r.site + "/callback"}, "code_verifier": {verifier}}
}
