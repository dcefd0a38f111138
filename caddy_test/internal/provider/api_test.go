package provider

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// issueTo asks the zero dialect's provider, or AffinityLive's, for a token.
func issueTo(t *testing.T, p *Provider) string {
	t.Helper()
	request := post("grant_type=refresh_token&refresh_token=REFRESH", basic(ClientID, ClientSecret))
	status, text, _ := request.filled(p).ask(t, p)
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusOK {
		t.Fatalf("answered %d %s", status, text)
	}
	return answer.Token
}

func TestTheAPITakesATokenInItsPlaceOnly(t *testing.T) {
	for _, c := range []struct {
		name    string
		dialect Dialect
		query   string // TOKEN stands for the token
		header  []string
		want    int
	}{
		{name: "Authorization: Bearer", header: []string{"Bearer TOKEN"}, want: 200},
		{name: "nothing", want: 401},
		{name: "another token", header: []string{"Bearer x"}, want: 401},
		{name: "without the scheme", header: []string{"TOKEN"}, want: 401},
		{name: "another scheme", header: []string{"Basic TOKEN"}, want: 401},
		{name: "twice", header: []string{"Bearer TOKEN", "Bearer TOKEN"}, want: 401},
		{name: "in the query of an API that does not take it there", query: "_bearer_token=TOKEN", want: 401},
		{name: "affinitylive: Authorization", dialect: AffinityLive, header: []string{"Bearer TOKEN"}, want: 200},
		{name: "affinitylive: query", dialect: AffinityLive, query: "a=1&_bearer_token=TOKEN", want: 200},
		{name: "affinitylive: both", dialect: AffinityLive, query: "_bearer_token=TOKEN", header: []string{"Bearer TOKEN"}, want: 401},
		{name: "affinitylive: query twice", dialect: AffinityLive, query: "_bearer_token=TOKEN&_bearer_token=TOKEN", want: 401},
		{name: "affinitylive: without the scheme", dialect: AffinityLive, header: []string{"TOKEN"}, want: 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New(t, c.dialect)
			token := issueTo(t, p)
			req, err := http.NewRequest(http.MethodGet, p.API+"/data?"+strings.ReplaceAll(c.query, "TOKEN", token), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, value := range c.header {
				req.Header.Add("Authorization", strings.ReplaceAll(value, "TOKEN", token))
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("answered %d, want %d", resp.StatusCode, c.want)
			}
		})
	}
}

func TestTheAPIRefusesTokensThatAreNotValidAnyMore(t *testing.T) {
	ask := func(p *Provider, token string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, p.API, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	p := New(t, Dialect{})
	token := issueTo(t, p)
	if got := ask(p, token); got != http.StatusOK {
		t.Fatalf("a valid token was answered %d", got)
	}
	p.Revoke()
	if got := ask(p, token); got != http.StatusUnauthorized || len(p.ExpiredSeen()) != 0 {
		t.Errorf("a revoked token was answered %d, and counted as expired %d times", got, len(p.ExpiredSeen()))
	}
	p.Set(func(k *Knobs) { k.Lifetime = time.Nanosecond })
	if got := ask(p, issueTo(t, p)); got != http.StatusUnauthorized || len(p.ExpiredSeen()) != 1 {
		t.Errorf("an expired token was answered %d, and counted as expired %d times", got, len(p.ExpiredSeen()))
	}
}
