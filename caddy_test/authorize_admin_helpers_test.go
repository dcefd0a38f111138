package caddy_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// personCaddy is a Caddy, and its admin API as far as a person's part goes.
type personCaddy struct {
	*harness.Caddy
	t *testing.T
}

// personStatus is what the admin API says of a source.
type personStatus struct {
	Grant, Provider, State, Authorize string
	HasToken                          bool `json:"has_token"`
	Refreshable                       bool
	Scopes                            []string
	Error                             *struct {
		Code      string
		Permanent bool
	}
}

// personAuthorization is what it says of an authorization.
type personAuthorization struct {
	ID, Source, Status, Error, Message string
	AuthorizationURL                   string `json:"authorization_url"`
	UserCode                           string `json:"user_code"`
	VerificationURI                    string `json:"verification_uri"`
	VerificationURIComplete            string `json:"verification_uri_complete"`
	Interval                           float64
	Scopes                             []string
	TokenExpires                       time.Time `json:"token_expires"`
}

// state is the value that the provider is to send back.
func (a personAuthorization) state() string {
	u, err := url.Parse(a.AuthorizationURL)
	if err != nil {
		return ""
	}
	return u.Query().Get("state")
}

// ask sends a request to the admin API, and reads a good answer into result.
func (c *personCaddy) ask(method, path string, body, result any) (status int, text string) {
	c.t.Helper()
	sent := new(bytes.Buffer)
	if body != nil {
		if err := json.NewEncoder(sent).Encode(body); err != nil {
			c.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, "http://"+c.Admin+path, sent)
	if err != nil {
		c.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, text := harness.Do(c.t, req)
	if resp.StatusCode == http.StatusOK && result != nil {
		if err := json.Unmarshal([]byte(text), result); err != nil {
			c.t.Fatalf("%s %s answered %q: %v", method, path, text, err)
		}
	}
	return resp.StatusCode, text
}

// status is that of crm.
func (c *personCaddy) status() (s personStatus) {
	c.t.Helper()
	if code, text := c.ask(http.MethodGet, "/token_sources/crm", nil, &s); code != http.StatusOK {
		c.t.Fatalf("the status of crm answered %d %s", code, text)
	}
	return s
}

// begin begins an authorization of crm.
func (c *personCaddy) begin() (a personAuthorization) {
	c.t.Helper()
	if code, text := c.ask(http.MethodPost, "/token_sources/crm/authorize", nil, &a); code != http.StatusOK {
		c.t.Fatalf("beginning an authorization answered %d %s", code, text)
	}
	return a
}

// look asks how an authorization stands.
func (c *personCaddy) look(id string) (a personAuthorization) {
	c.t.Helper()
	if code, text := c.ask(http.MethodGet, "/token_sources/crm/authorizations/"+id, nil, &a); code != http.StatusOK {
		c.t.Fatalf("the authorization answered %d %s", code, text)
	}
	return a
}

// complete hands in what a person has pasted.
func (c *personCaddy) complete(id, code string) (a personAuthorization, status int, text string) {
	c.t.Helper()
	body := map[string]string{"code": code}
	if id != "" {
		body["id"] = id
	}
	status, text = c.ask(http.MethodPost, "/token_sources/crm/complete", body, &a)
	return a, status, text
}

// awaitOutcome polls until an authorization is over.
func (c *personCaddy) awaitOutcome(id string) (a personAuthorization) {
	c.t.Helper()
	c.Eventually(time.Minute, "the authorization is over", func() bool {
		a = c.look(id)
		return a.Status != "pending" && a.Status != "exchanging"
	})
	return a
}

// assertNeedsAPerson wants a request to be told so, and the status as well.
func (c *personCaddy) assertNeedsAPerson(address, details string) {
	c.t.Helper()
	resp, body := harness.Get(c.t, address+"/x")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, authorizeCommand) {
		c.t.Errorf("a request was answered %d %q, not 502 with the command", resp.StatusCode, body)
	}
	if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, `details="`+details+`"`) {
		c.t.Errorf("Proxy-Status is %q, not with details %s", got, details)
	}
	if s := c.status(); s.State != "needs_authorization" || s.Authorize != authorizeCommand {
		c.t.Errorf("the status is %+v", s)
	}
}

// assertServed wants the API's answer.
func (c *personCaddy) assertServed(address string) {
	c.t.Helper()
	if resp, body := harness.Get(c.t, address+"/x"); resp.StatusCode != http.StatusOK || body != "active: offline_access api" {
		c.t.Errorf("a request was answered %d %q", resp.StatusCode, body)
	}
}
