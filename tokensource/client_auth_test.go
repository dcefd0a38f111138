package tokensource

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
)

// basicOf returns the two halves of Basic credentials, as sent.
func basicOf(t *testing.T, r recorded) (id, secret string) {
	t.Helper()
	encoded, ok := strings.CutPrefix(r.header.Get("Authorization"), "Basic ")
	if !ok {
		t.Fatalf("Authorization is %q", r.header.Get("Authorization"))
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	id, secret, ok = strings.Cut(string(decoded), ":")
	if !ok {
		t.Fatalf("no colon in %q", decoded)
	}
	return id, secret
}

func TestBasicCredentialsAreFormEncodedUnlessRaw(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"plain", "a:b", "a/b+c=", "100%", "ä€", "a b", "~-._*", `"\'`, "a&b;c#d?e@f", "%2F"} {
		for _, rawly := range []bool{false, true} {
			p := newProvider(t, issue("at", ""))
			c := client(p)
			c.ClientID, c.ClientSecret, c.RawBasic = "id-"+strings.ReplaceAll(secret, ":", ""), secret, rawly
			token, failure := obtain(t, c, nil)
			must(t, token, failure)
			id, sent := basicOf(t, p.only(t))
			if !rawly {
				if strings.Trim(id+sent, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~*+%") != "" {
					t.Errorf("%q is sent as %q, which is not form-encoded", secret, sent)
				}
				id, _ = url.QueryUnescape(id)
				sent, _ = url.QueryUnescape(sent)
			}
			if id != c.ClientID || sent != secret {
				t.Errorf("raw %v: %q, %q arrived as %q, %q", rawly, c.ClientID, secret, id, sent)
			}
		}
	}
}

func TestWithASecretBasicIsTheDefaultAndWithoutOneNone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{Grant: "client_credentials", ClientID: "a", ClientSecret: "b"}, "client_secret_basic"},
		{Config{Grant: "password", ClientID: "a", ClientSecret: "b"}, "client_secret_basic"},
		{Config{Grant: "password", ClientID: "a"}, "none"},
		{Config{Grant: "password"}, "none"},
		{Config{Grant: "custom", ClientID: "a", ClientSecret: "b"}, "none"},
		{Config{Grant: "client_credentials", ClientID: "a", ClientSecret: "b", ClientAuth: "client_secret_post"}, "client_secret_post"},
	} {
		s, err := New(test.config)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.clientAuth(nil); got != test.want {
			t.Errorf("%+v: %s, want %s", test.config, got, test.want)
		}
	}
}

// TestCredentialsStandInOnePlaceAlone holds RFC 6749, section 2.3: a client
// must not use more than one method in a request.
func TestCredentialsStandInOnePlaceAlone(t *testing.T) {
	t.Parallel()
	const secret = "canary-of-the-client"
	for _, auth := range []string{"client_secret_basic", "client_secret_post", "client_secret_query"} {
		for _, place := range []Request{{}, {Encoding: "json"}, {Encoding: "query"}, {Method: "GET"}} {
			p := newProvider(t, issue("at", ""))
			c := client(p)
			c.ClientSecret, c.ClientAuth, c.TokenRequest = secret, auth, place
			token, failure := obtain(t, c, nil)
			must(t, token, failure)
			got := p.only(t)
			text := got.target + "\n" + got.body + "\n"
			if got.header.Get("Authorization") != "" {
				_, sent := basicOf(t, got)
				text += sent
			}
			if n := strings.Count(text, secret); n != 1 {
				t.Errorf("%s, %+v: the secret stands in the request %d times", auth, place, n)
			}
		}
	}
}
