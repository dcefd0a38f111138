package caddy_test

import (
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
	if output := command.Output(); !strings.Contains(output, r.offer.wrongCode()) || !strings.Contains(output, interopCauses[r.offer.wrongCode()]) {
		r.t.Errorf("authorizing with a wrong credential does not say %s:\n%s", r.offer.wrongCode(), output)
	}
	resp, body := harness.Get(r.t, r.site+"/wrong")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "caddy token-source authorize wrong") {
		r.t.Errorf("with a wrong credential answered %d %q", resp.StatusCode, body)
	}
}

// refreshToken is the one that Caddy has stored.
func (r *interopRow) refreshToken() string {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.c.Dir, "data", "caddy", "token_sources", "crm", "*", "token.json"))
	if err != nil || len(files) != 1 {
		r.t.Fatalf("the storage holds %d tokens (%v)", len(files), err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		r.t.Fatal(err)
	}
	var record struct {
		Token struct {
			RefreshToken string `json:"refresh_token"`
		}
	}
	if err := json.Unmarshal(text, &record); err != nil {
		r.t.Fatal(err)
	}
	return record.Token.RefreshToken
}

// assertRotated wants the server to refuse a refresh token that was spent, and the
// source to begin anew after what the server does then.
func (r *interopRow) assertRotated() {
	r.t.Helper()
	spent := r.refreshToken()
	r.c.Eventually(time.Minute, "the refresh token was spent", func() bool { return r.refreshToken() != spent })
	values := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {spent}}
	if _, err := r.askForToken(values); err == nil {
		r.t.Error("a refresh token that was spent is good")
	}
	// Most servers end all that came of it, for it may have been stolen.
	if r.way.person {
		r.authorize("crm")
	}
	if r.way.word == "refresh" {
		harness.WriteFile(r.t, r.dir, "refresh-token", r.seed())
	}
	r.c.Eventually(time.Minute, "it is served again", func() bool {
		resp, _ := harness.Get(r.t, r.site)
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
	if r.offer.secret == "" {
		values.Set("client_id", r.offer.client)
	}
	req, err := http.NewRequest(http.MethodPost, r.server.url("http://"+r.server.host, "token"), strings.NewReader(values.Encode()))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if r.offer.secret != "" {
		req.SetBasicAuth(r.offer.client, r.offer.secret)
	}
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
