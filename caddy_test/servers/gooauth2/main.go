// Command gooauth2 is an authorization server by go-oauth2/oauth2, for tests:
// client 000000 with the secret 999999, user peter with the password secret.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/go-oauth2/oauth2/v4"
	"github.com/go-oauth2/oauth2/v4/errors"
	"github.com/go-oauth2/oauth2/v4/manage"
	"github.com/go-oauth2/oauth2/v4/models"
	"github.com/go-oauth2/oauth2/v4/server"
	"github.com/go-oauth2/oauth2/v4/store"
)

func main() {
	lifetime := flag.Duration("lifetime", time.Minute, "of an access token")
	flag.Parse()
	manager := manage.NewDefaultManager()
	manager.MustTokenStorage(store.NewMemoryTokenStore())
	manager.SetClientTokenCfg(&manage.Config{AccessTokenExp: *lifetime})
	manager.SetPasswordTokenCfg(&manage.Config{AccessTokenExp: *lifetime, RefreshTokenExp: time.Hour, IsGenerateRefresh: true})
	manager.SetRefreshTokenCfg(&manage.RefreshingConfig{
		AccessTokenExp: *lifetime, IsGenerateRefresh: true, IsResetRefreshTime: true, IsRemoveAccess: true, IsRemoveRefreshing: true,
	})
	clients := store.NewClientStore()
	if err := clients.Set("000000", &models.Client{ID: "000000", Secret: "999999", Domain: "http://127.0.0.1"}); err != nil {
		log.Fatal(err)
	}
	manager.MapClientStorage(clients)

	s := server.NewDefaultServer(manager)
	s.SetAllowedGrantType(oauth2.ClientCredentials, oauth2.PasswordCredentials, oauth2.Refreshing)
	s.SetClientInfoHandler(func(r *http.Request) (string, string, error) {
		if id, secret, err := server.ClientBasicHandler(r); err == nil {
			return id, secret, nil
		}
		return server.ClientFormHandler(r)
	})
	s.SetPasswordAuthorizationHandler(func(_ context.Context, _, user, password string) (string, error) {
		if user == "peter" && password == "secret" {
			return user, nil
		}
		return "", errors.ErrInvalidGrant
	})
	http.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if err := s.HandleTokenRequest(w, r); err != nil {
			log.Print(err)
		}
	})
	http.HandleFunc("/check", func(w http.ResponseWriter, r *http.Request) { // an API of its own
		if _, err := s.ValidationBearerToken(r); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	println("listening on " + l.Addr().String())
	log.Fatal(http.Serve(l, nil))
}
