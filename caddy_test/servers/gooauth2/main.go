// Command gooauth2 is an authorization server by go-oauth2/oauth2, for tests:
// client 000000 with the secret 999999, client native without one, user peter with
// the password secret.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
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
	manager.SetAuthorizeCodeTokenCfg(&manage.Config{AccessTokenExp: *lifetime, RefreshTokenExp: time.Hour, IsGenerateRefresh: true})
	manager.SetRefreshTokenCfg(&manage.RefreshingConfig{
		AccessTokenExp: *lifetime, IsGenerateRefresh: true, IsResetRefreshTime: true, IsRemoveAccess: true, IsRemoveRefreshing: true,
	})
	clients := store.NewClientStore()
	if err := clients.Set("000000", &models.Client{ID: "000000", Secret: "999999", Domain: "http://127.0.0.1"}); err != nil {
		log.Fatal(err)
	}
	if err := clients.Set("native", &models.Client{ID: "native", Domain: "http://127.0.0.1", Public: true}); err != nil {
		log.Fatal(err)
	}
	manager.MapClientStorage(clients)
	// Whatever port of this machine: DefaultValidateURI wants the same one.
	manager.SetValidateURIHandler(func(_, redirect string) error {
		if u, err := url.Parse(redirect); err != nil || u.Hostname() != "127.0.0.1" {
			return errors.ErrInvalidRedirectURI
		}
		return nil
	})

	s := server.NewDefaultServer(manager)
	s.SetAllowedGrantType(oauth2.AuthorizationCode, oauth2.ClientCredentials, oauth2.PasswordCredentials, oauth2.Refreshing)
	s.SetUserAuthorizationHandler(func(w http.ResponseWriter, r *http.Request) (string, error) {
		user := r.PostFormValue("username")
		if user == "" {
			fmt.Fprint(w, `<form method="post"><input name="username"><button type="submit">Yes</button></form>`)
		}
		return user, nil
	})
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
	http.HandleFunc("/authorize", func(w http.ResponseWriter, r *http.Request) {
		if err := s.HandleAuthorizeRequest(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
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
