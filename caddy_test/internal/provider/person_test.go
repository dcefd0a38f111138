package provider

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const verifier = "0123456789-0123456789-0123456789-0123456789"

// begin is an authorization URL with further parameters; NAME alone leaves one
// out.
func begin(p *Provider, params ...string) string {
	sum := sha256.Sum256([]byte(verifier))
	query := url.Values{"response_type": {"code"}, "client_id": {ClientID}, "state": {"s"}, "redirect_uri": {"http://127.0.0.1:1/callback"}, "scope": {"read"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	for _, param := range params {
		name, value, set := strings.Cut(param, "=")
		query.Del(name)
		if set {
			query.Set(name, value)
		}
	}
	return p.AuthorizeURL() + "?" + query.Encode()
}

// exchange sends a token request with a code or a device code.
func exchange(t *testing.T, p *Provider, params url.Values) (answer map[string]any, refused string) {
	t.Helper()
	_, text, refused := post(params.Encode(), basic(ClientID, ClientSecret)).ask(t, p)
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(text)
	}
	return answer, refused
}

func ofCode(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"http://127.0.0.1:1/callback"}, "code_verifier": {verifier}}
}

func TestACodeIsTakenOnceWithAllThatBelongsToIt(t *testing.T) {
	p := New(t, Dialect{})
	p.Set(func(k *Knobs) { k.Offline, k.Issuer = true, p.URL })
	v := p.Visit(begin(p))
	if v.Status != http.StatusFound || v.Answer.Get("state") != "s" || v.Answer.Get("iss") != p.URL || !strings.HasPrefix(v.Location, "http://127.0.0.1:1/callback?") {
		t.Fatalf("%+v", v)
	}
	for _, wrong := range []url.Values{{"redirect_uri": {"http://127.0.0.1:2/"}}, {"code_verifier": {verifier + "x"}}, {"code": {"x"}}} {
		params := ofCode(v.Answer.Get("code"))
		for name := range wrong {
			params[name] = wrong[name]
		}
		if _, refused := exchange(t, p, params); refused != "invalid_grant" {
			t.Errorf("%v: %q", wrong, refused)
		}
	}
	answer, refused := exchange(t, p, ofCode(v.Answer.Get("code")))
	if refused != "" || answer["scope"] != "read" || answer["refresh_token"] == nil || !p.Valid(answer["access_token"].(string)) {
		t.Fatalf("%v %s", answer, refused)
	}
	if _, refused := exchange(t, p, ofCode(v.Answer.Get("code"))); refused != "invalid_grant" || p.Valid(answer["access_token"].(string)) {
		t.Errorf("a code that is used again: %q, and the token stays valid", refused)
	}
}

func TestTheAuthorizationEndpointIsStrict(t *testing.T) {
	p := New(t, Dialect{})
	p.Set(func(k *Knobs) { k.RedirectURIs = []string{"http://127.0.0.1:1/callback"} })
	for _, wrong := range []string{"response_type=token", "client_id=x", "redirect_uri=http://127.0.0.1:2/", "redirect_uri", "code_challenge", "code_challenge_method=plain", "client_secret=x"} {
		if v := p.Visit(begin(p, wrong)); v.Status != http.StatusBadRequest || v.Location != "" {
			t.Errorf("%s: %+v", wrong, v)
		}
	}
	if got := len(p.Violations()); got != 4 {
		t.Errorf("%d violations: %q", got, p.Violations())
	}
	p.Set(func(k *Knobs) { k.Person = func(*AuthorizationRequest) string { return "access_denied" } })
	if v := p.Visit(begin(p)); v.Answer.Get("error") != "access_denied" || v.Answer.Get("state") != "s" || v.Answer.Has("code") {
		t.Errorf("a person who refuses: %+v", v)
	}
}

func TestACodeIsShownWhereItCannotBeSent(t *testing.T) {
	p := New(t, Dialect{})
	p.Set(func(k *Knobs) { k.ShowCode = func(code string) string { return "x|" + code + "|<y>" } })
	for _, how := range []string{"redirect_uri", "redirect_uri=" + OutOfBand} {
		v := p.Visit(begin(p, how))
		code := p.Authorizations()[len(p.Authorizations())-1].Code
		if v.Status != http.StatusOK || v.Shown != "x|"+code+"|<y>" || code == "" {
			t.Errorf("%s: %+v", how, v)
		}
	}
	v := p.Visit(begin(p, "response_mode=form_post"))
	if v.Action != "http://127.0.0.1:1/callback" || v.Answer.Get("code") == "" || v.Answer.Get("state") != "s" {
		t.Errorf("form_post: %+v", v)
	}
}

func TestADeviceIsConnectedByAPerson(t *testing.T) {
	p := New(t, Dialect{})
	connect := func() (poll func() (string, map[string]any), user string) {
		req := post(url.Values{"client_id": {ClientID}, "scope": {"read"}}.Encode(), basic(ClientID, ClientSecret))
		r, err := http.NewRequest(req.method, p.DeviceURL(), strings.NewReader(req.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = req.header
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Device   string `json:"device_code"`
			User     string `json:"user_code"`
			Complete string `json:"verification_uri_complete"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Complete != p.URL+"/verify?user_code="+answer.User {
			t.Fatal(err, answer)
		}
		return func() (string, map[string]any) {
			answer, refused := exchange(t, p, url.Values{"grant_type": {deviceGrant}, "device_code": {answer.Device}})
			return refused, answer
		}, answer.User
	}
	second := func() { time.Sleep(time.Second) } // the interval of the provider

	poll, user := connect()
	if refused, _ := poll(); refused != "authorization_pending" {
		t.Errorf("before: %q", refused)
	}
	p.Approve(user)
	if refused, _ := poll(); refused != "slow_down" || len(p.Violations()) != 1 {
		t.Errorf("too early: %q %q", refused, p.Violations())
	}
	if polls := p.Polls(user); len(polls) != 2 || polls[1].Interval != 6*time.Second {
		t.Errorf("the polls: %+v", polls)
	}
	poll, user = connect()
	p.Visit(p.URL + "/verify?user_code=" + user)
	if refused, answer := poll(); refused != "" || answer["scope"] != "read" {
		t.Errorf("approved: %q %v", refused, answer)
	}
	second()
	if refused, _ := poll(); refused != "invalid_grant" {
		t.Errorf("twice: %q", refused)
	}
	for want, end := range map[string]func(string){"access_denied": p.Deny, "expired_token": p.Expire} {
		poll, user = connect()
		end(user)
		if refused, _ := poll(); refused != want {
			t.Errorf("%q, want %q", refused, want)
		}
	}
	if got := p.UserCodes(); len(got) != 4 || !slices.Contains(got, user) {
		t.Errorf("the user codes: %q", got)
	}
}

func TestARevokedRefreshTokenEndsTheGrant(t *testing.T) {
	p := New(t, Dialect{})
	p.Set(func(k *Knobs) { k.Offline = true })
	answer, _ := exchange(t, p, ofCode(p.Visit(begin(p)).Answer.Get("code")))
	refresh, access := answer["refresh_token"].(string), answer["access_token"].(string)
	revoke := func(header http.Header) int {
		r, err := http.NewRequest(http.MethodPost, p.RevokeURL(), strings.NewReader(url.Values{"token": {refresh}, "token_type_hint": {"refresh_token"}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		r.Header.Set("Content-Type", form)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := revoke(basic(ClientID, "x")); got != http.StatusUnauthorized || !p.Valid(access) {
		t.Errorf("by another client: %d", got)
	}
	if got := revoke(basic(ClientID, ClientSecret)); got != http.StatusOK || p.Valid(access) {
		t.Errorf("answered %d; valid: %v", got, p.Valid(access))
	}
	if _, refused := exchange(t, p, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}); refused != "invalid_grant" {
		t.Errorf("a revoked refresh token: %q", refused)
	}
	if seen := p.Revocations(); len(seen) != 2 || seen[1].Token != refresh || seen[1].Hint != "refresh_token" || seen[1].Status != http.StatusOK {
		t.Errorf("the revocations: %+v", seen)
	}
}
