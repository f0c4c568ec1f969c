Rails.application.routes.draw do
  get '/todo', to: 'todos#index'
  post '/todo', to: 'todos#create'
  put '/todo/complete', to: 'todos#complete'
  delete '/todo/:id', to: 'todos#destroy'
end
