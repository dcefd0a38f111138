package provider

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// authorizePIN is an authorization URL as AffinityLive's document has it.
func authorizePIN(p *Provider, change func(url.Values)) string {
	query := url.Values{"client_id": {ClientID}, "response_type": {"code"}, "scope": {"read(all),write(companies,contacts)"}}
	if change != nil {
		change(query)
	}
	return p.AuthorizePINURL() + "?" + query.Encode()
}

func TestAPINIsShownAndTakenOnce(t *testing.T) {
	for name, request := range map[string]func(number string) sent{
		"Basic": func(number string) sent {
			return post("grant_type=authorization_code&code="+number, basic(ClientID, ClientSecret))
		},
		"the query": func(number string) sent {
			return sent{method: http.MethodPost, query: client, body: "grant_type=authorization_code&code=" + number, header: http.Header{"Content-Type": {form}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(t, AffinityLive)
			number, qr := ReadPIN(t, authorizePIN(p, nil))
			if qr != "hq;peter;"+number {
				t.Errorf("the QR text of the PIN %s is %s", number, qr)
			}
			if status, text, _ := request(number).ask(t, p); status != http.StatusOK {
				t.Errorf("a PIN was answered %d %s", status, text)
			}
			if status, text, code := request(number).ask(t, p); code != "invalid_grant" {
				t.Errorf("a spent PIN was answered %d %s", status, text)
			}
			p.AssertStrict()
		})
	}
}

func TestAPINBelongsToItsRedirectURI(t *testing.T) {
	const uri = "https://app.example.org/landing"
	for _, c := range []struct{ authorized, sent, want string }{
		{"", "", ""},
		{uri, uri, ""},
		{uri, "", "invalid_grant"},
		{uri, uri + "/", "invalid_grant"},
		{"", uri, "invalid_grant"},
	} {
		p := New(t, AffinityLive)
		number, _ := ReadPIN(t, authorizePIN(p, func(query url.Values) {
			if c.authorized != "" {
				query.Set("redirect_uri", c.authorized)
			}
		}))
		body := "grant_type=authorization_code&code=" + number
		if c.sent != "" {
			body += "&redirect_uri=" + url.QueryEscape(c.sent)
		}
		if _, text, code := post(body, basic(ClientID, ClientSecret)).ask(t, p); code != c.want {
			t.Errorf("authorized with %q and sent with %q: answered %s", c.authorized, c.sent, text)
		}
		p.AssertStrict()
	}
}

func TestAnAuthorizationURLThatTheDocumentDoesNotDescribeIsRefused(t *testing.T) {
	set := func(name, value string) func(url.Values) {
		return func(query url.Values) { query.Set(name, value) }
	}
	for name, change := range map[string]func(url.Values){
		"state":                        set("state", "x"),
		"a challenge":                  set("code_challenge", "x"),
		"its method":                   set("code_challenge_method", "S256"),
		"no response_type":             func(query url.Values) { query.Del("response_type") },
		"another one":                  set("response_type", "token"),
		"no scope":                     func(query url.Values) { query.Del("scope") },
		"scopes with blanks":           set("scope", "read(all) write(companies)"),
		"a scope without its endpoint": set("scope", "read,write"),
		"no client_id":                 func(query url.Values) { query.Del("client_id") },
		"client_id twice":              func(query url.Values) { query.Add("client_id", ClientID) },
	} {
		p := New(t, AffinityLive)
		resp, err := http.Get(authorizePIN(p, change))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || len(p.Violations()) != 1 || len(p.PINs()) != 0 {
			t.Errorf("%s: answered %d; violations: %v", name, resp.StatusCode, p.Violations())
		}
	}
}

func TestAPINRequestThatTheDocumentDoesNotDescribeIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"a verifier":           "grant_type=authorization_code&code=PIN&code_verifier=x",
		"a scope":              "grant_type=authorization_code&code=PIN&scope=read(all)",
		"no code":              "grant_type=authorization_code",
		"a refresh token":      "grant_type=authorization_code&code=PIN&refresh_token=x",
		"the client in a form": "grant_type=authorization_code&code=PIN&" + client,
		"a redirect_uri twice": "grant_type=authorization_code&code=PIN&redirect_uri=a&redirect_uri=a",
	} {
		p := New(t, AffinityLive)
		number, _ := ReadPIN(t, authorizePIN(p, nil))
		_, text, code := post(strings.ReplaceAll(body, "PIN", number), basic(ClientID, ClientSecret)).ask(t, p)
		if code != "invalid_request" || len(p.Violations()) != 1 {
			t.Errorf("%s: answered %s; violations: %v", name, text, p.Violations())
		}
	}
}
