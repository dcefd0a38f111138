package tokensource_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// A login that is not OAuth: JSON goes in, the token comes out of a nested
// field with its lifetime in milliseconds, and a failure has status 200. None
// of that is code: it is all in the Config.
func Example() {
	logins := 0
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Method, r.URL.Path, string(body))
		if logins++; logins == 3 {
			fmt.Fprint(w, `{"status":"locked","message":"hunter4 is wrong"}`)
			return
		}
		fmt.Fprintf(w, `{"status":"ok","data":{"session":"token-%d","ttl":1800000}}`, logins)
	}))
	defer provider.Close()

	secrets := map[string]string{}
	source, err := tokensource.New(tokensource.Config{
		Grant:    "custom",
		TokenURL: provider.URL + "/login",
		TokenRequest: tokensource.Request{Encoding: "json", Params: []tokensource.Param{
			{Name: "user", Value: "proxy"},
			{Name: "password", Value: "{file./run/secrets/crm}"},
		}},
		Response: tokensource.Response{
			AccessToken:   "data.session",
			ExpiresIn:     "data.ttl",
			ExpiresInUnit: time.Millisecond,
			Error:         "status",
			ErrorOK:       []string{"ok"},
		},
		Lookup: func(placeholder string) (string, bool) {
			value, known := secrets[placeholder]
			return value, known
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	var token *tokensource.Token
	for _, password := range []string{"hunter2", "hunter3", "hunter4"} {
		secrets["file./run/secrets/crm"] = password // each request reads it
		next, err := source.Obtain(context.Background(), token)
		if err != nil {
			fmt.Println("no token:", err)
			return
		}
		token = next
		fmt.Println(token.AccessToken, "lasts", token.Lifetime)
	}
	// Output:
	// POST /login {"password":"hunter2","user":"proxy"}
	// token-1 lasts 30m0s
	// POST /login {"password":"hunter3","user":"proxy"}
	// token-2 lasts 30m0s
	// POST /login {"password":"hunter4","user":"proxy"}
	// no token: HTTP status 200, locked: [redacted] is wrong
}
