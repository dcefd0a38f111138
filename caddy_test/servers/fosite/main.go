// Command fosite is an authorization server by ory/fosite, with everything
// enabled and its example store, for tests: client my-client with the secret
// foobar, user peter with the password secret.
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"
)

func main() {
	lifetime := flag.Duration("lifetime", time.Minute, "of an access token")
	flag.Parse()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	provider := compose.ComposeAllEnabled(&fosite.Config{
		AccessTokenLifespan: *lifetime,
		GlobalSecret:        []byte("a-secret-of-this-test-of-32-byte"),
		RefreshTokenScopes:  []string{"offline"},
	}, storage.NewExampleStore(), key)

	http.HandleFunc("/oauth2/token", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		request, err := provider.NewAccessRequest(ctx, r, session("peter"))
		if err != nil {
			provider.WriteAccessError(ctx, w, request, err)
			return
		}
		if grants := request.GetGrantTypes(); grants.ExactOne("client_credentials") || grants.ExactOne("password") {
			for _, scope := range request.GetRequestedScopes() {
				request.GrantScope(scope)
			}
		}
		response, err := provider.NewAccessResponse(ctx, request)
		if err != nil {
			provider.WriteAccessError(ctx, w, request, err)
			return
		}
		provider.WriteAccessResponse(ctx, w, request, response)
	})
	http.HandleFunc("/oauth2/introspect", func(w http.ResponseWriter, r *http.Request) {
		response, err := provider.NewIntrospectionRequest(r.Context(), r, session(""))
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, response)
	})
	serve()
}

func session(user string) *openid.DefaultSession {
	now := time.Now()
	return &openid.DefaultSession{
		Subject: user,
		Claims:  &jwt.IDTokenClaims{Subject: user, ExpiresAt: now.Add(time.Hour), IssuedAt: now, RequestedAt: now, AuthTime: now},
		Headers: &jwt.Headers{Extra: map[string]any{}},
	}
}

// serve listens on a free port of loopback and tells which in its first line.
func serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	println("listening on " + l.Addr().String())
	log.Fatal(http.Serve(l, nil))
}
